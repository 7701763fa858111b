"""Files of labelled pairs as memory-mapped, tokenised datasets.

Shapes: K texts an example (2 for pairs), N = K texts in one row here, T their tokens.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value, config
from datasets import List as ListOf
from pyarrow import compute

from cosent.data.readers import OnBadRows, Pair, PairReader, ReadReport
from cosent.errors import DataError
from cosent.modeling import SentenceBert
from cosent.tokens import is_truncated, tokenize, tokenizer_digest

_PAIR_SCHEMA = pa.schema([("text1", pa.string()), ("text2", pa.string()), ("label", pa.float64())])
_TOKEN_FEATURES = Features(
    {
        "input_ids": ListOf(Value("int32")),
        "lengths": ListOf(Value("int32")),
        "text_ids": ListOf(Value("int64")),
        "labels": Value("float64"),
        "truncated": Value("int8"),
    }
)
_ROWS_A_BLOCK = 10_000


@dataclass(frozen=True)
class PairDataset:
    """Labelled pairs, as read and as tokenised, row for row.

    Attributes:
        records: "text1", "text2", "label".
        tokens: "input_ids" (T,) of both texts one after the other, "lengths" (2,), "text_ids" (2,) equal where
            texts' tokens are, "labels" scalar, and "truncated", how many of the two texts were cut.
        report: what reading the file found.
    """

    records: Dataset
    tokens: Dataset
    report: ReadReport

    def __len__(self) -> int:
        return len(self.records)

    def select(self, indices: np.ndarray) -> "PairDataset":
        """Some of the rows."""
        return PairDataset(self.records.select(indices), self.tokens.select(indices), self.report)

    @property
    def labels(self) -> np.ndarray:
        """(n,) float64 labels."""
        return np.asarray(self.records.with_format("arrow")["label"][:].to_numpy())

    @property
    def truncated_share(self) -> float:
        """Share of texts that lost tokens to the length limit."""
        return float(np.mean(self.tokens.with_format("numpy")["truncated"][:])) / 2


def load_pairs(
    path: str | Path,
    model: SentenceBert,
    *,
    text_columns: tuple[str, str] | None = None,
    label_column: str | None = None,
    on_bad_rows: OnBadRows = "error",
) -> PairDataset:
    """Read, check and tokenise a file of labelled pairs.

    Rows go to an Arrow file in the `datasets` cache, and so do their tokens, once for each tokenizer and length:
    memory does not grow with the data.

    Args:
        path: the file; see `PairReader` for its format.
        model: whose tokenizer and length are used.
        text_columns: see `PairReader`.
        label_column: see `PairReader`.
        on_bad_rows: see `PairReader`.

    Returns:
        The pairs.

    Raises:
        DataError: see `PairReader`; also if all labels are the same.
    """
    reader = PairReader(path, text_columns=text_columns, label_column=label_column, on_bad_rows=on_bad_rows)
    records, digest = _to_arrow(reader)
    lowest, highest = compute.min_max(records.data["label"]).as_py().values()
    if lowest == highest:
        raise DataError(f"{path}: every label is {lowest:g}; pairs can only be ranked where labels differ")
    return PairDataset(records, _tokenize(records, digest, model), reader.report)


def _to_arrow(pairs: Iterable[Pair]) -> tuple[Dataset, str]:
    """Write pairs to an Arrow file that is named by its content; the pairs and that name."""
    folder = Path(config.HF_DATASETS_CACHE) / "cosent"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished-{os.getpid()}.arrow"
    content = blake2b(digest_size=16)
    pairs = iter(pairs)
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, _PAIR_SCHEMA) as writer:
            while block := list(islice(pairs, _ROWS_A_BLOCK)):
                columns = zip(*((pair.text1, pair.text2, pair.label) for pair in block), strict=True)
                batch = pa.record_batch(list(map(list, columns)), schema=_PAIR_SCHEMA)
                for buffer in (buffer for column in batch.columns for buffer in column.buffers() if buffer):
                    content.update(buffer)
                writer.write_batch(batch)
        finished = folder / f"pairs-{content.hexdigest()}.arrow"
        unfinished.replace(finished)
    finally:
        unfinished.unlink(missing_ok=True)
    return Dataset.from_file(str(finished)), content.hexdigest()


def _tokenize(records: Dataset, digest: str, model: SentenceBert) -> Dataset:
    limit = model.max_length

    def tokenize_rows(rows: dict[str, list]) -> pa.Table:
        texts = model.prepare([text for pair in zip(rows["text1"], rows["text2"], strict=True) for text in pair])
        tokens = tokenize(model.tokenizer, texts, limit)  # of N = 2 * rows texts
        cut = is_truncated(model.tokenizer, texts, tokens, limit)
        row_lengths = tokens.lengths.reshape(-1, 2).sum(1)
        pairs_at = np.arange(0, len(texts) + 1, 2, dtype=np.int32)
        tokens_at = np.concatenate([[0], row_lengths.cumsum()]).astype(np.int32)
        return pa.table(
            {
                "input_ids": pa.ListArray.from_arrays(tokens_at, tokens.input_ids),
                "lengths": pa.ListArray.from_arrays(pairs_at, tokens.lengths.astype(np.int32)),
                "text_ids": pa.ListArray.from_arrays(pairs_at, tokens.text_ids()),
                "labels": pa.array(rows["label"], pa.float64()),
                "truncated": pa.array(np.reshape(cut, (-1, 2)).sum(1).astype(np.int8)),
            }
        )

    # named by what the tokens depend on: the default name would hash the model's weights too
    depends_on = repr((digest, tokenizer_digest(model.tokenizer), limit, model.prepare(["Aa"])))
    return records.map(
        tokenize_rows,
        batched=True,
        remove_columns=records.column_names,
        features=_TOKEN_FEATURES,
        new_fingerprint=blake2b(depends_on.encode(), digest_size=16).hexdigest(),
        desc="Tokenising",
    )
