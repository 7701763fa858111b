"""Files of examples as memory-mapped, tokenised datasets.

Shapes: n examples, K texts in one, N = K texts in one row here, T their tokens.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value, config
from datasets import List as ListOf
from numpy.typing import NDArray
from pyarrow import compute

from cosent.data.formats import FORMATS, DataFormat, Example
from cosent.data.layouts import Columns
from cosent.data.positives import PositiveGroups, is_match, matching_pairs
from cosent.data.readers import ExampleReader, OnBadRows, ReadReport
from cosent.errors import DataError
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import is_truncated, tokenize, tokenizer_digest

logger = logging.getLogger(__name__)

_LABELS = {float: pa.float64(), str: pa.string()}
_INT64 = Value("int64")
_ROWS_A_BLOCK = 10_000


@dataclass(frozen=True)
class Records:
    """Examples as read.

    Attributes:
        data_format: what an example is.
        rows: "texts", K of them, and "label", a score or the name of a class, where the format has one.
        report: what reading the file found.
        digest: names the content.
    """

    data_format: DataFormat
    rows: Dataset
    report: ReadReport
    digest: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> Iterable[list[str]]:
        """K texts of each of the n examples; unlike those of `rows`, read many at a time."""
        return _Texts(self.rows)

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) float64 scores, or the names of classes."""
        return self.rows.with_format("arrow")["label"][:].to_numpy()

    def select(self, indices: NDArray[np.int64]) -> "Records":
        """Some of the examples."""
        digest = blake2b(self.digest.encode() + np.asarray(indices, np.int64).tobytes(), digest_size=16).hexdigest()
        return replace(self, rows=self.rows.select(indices), digest=digest)

    def sample(self, number: int, seed: int) -> "Records":
        """A random sample without replacement, in the file's order; all examples where there are no more."""
        if number >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(seed).choice(len(self), number, replace=False)))

    def to_triplets(self, *, use_negatives: bool = False, positive_label_min: float | None = None) -> "Records":
        """Turn pairs into anchors with their positives, which is what a contrastive loss learns from.

        Args:
            use_negatives: give anchors the second texts of their pairs that do not match, as hard negatives.
            positive_label_min: labels from here on are a match; 0/1 labels need none.

        Returns:
            An example for each pair that matches.

        Raises:
            DataError: if labels do not say what matches, or nothing does.
        """
        if FORMATS[self.data_format].label is not float:
            raise DataError(f"{self.report.path} holds {self.data_format}; pairs become triplets")
        matches = is_match(self.labels, positive_label_min)
        if matches is None:
            raise DataError(
                f"{self.report.path}: labels are graded; positive_label_min says from which one on a pair matches"
            )
        if not matches.any():
            raise DataError(f"{self.report.path}: no pair matches, so there is no positive to learn from")
        rows, digest = _to_arrow(matching_pairs(self.texts, matches, use_negatives=use_negatives))
        if use_negatives:
            anchors = {texts[0] for texts in _Texts(rows)}
            others = [texts[0] for texts, match in zip(self.texts, matches, strict=True) if not match]
            logger.info(
                "%d of %d pairs that do not match begin with an anchor, and give it a hard negative",
                sum(first in anchors for first in others),
                len(others),
            )
        return Records("triplets", rows, self.report, digest)

    def tokenize(self, model: SentenceBert) -> "TextDataset":
        """Tokenise all texts, once for each tokenizer and length: tokens are kept in the `datasets` cache.

        Args:
            model: whose tokenizer and length are used.

        Returns:
            The examples and their tokens.

        Raises:
            DataError: if all scores, or all classes, are the same.
        """
        if "label" in self.rows.column_names:
            lowest, highest = compute.min_max(self.rows.with_format("arrow")["label"][:]).as_py().values()
            if lowest == highest:
                is_score = FORMATS[self.data_format].label is float
                value = f"label is {lowest:g}" if is_score else f"text is of class {lowest!r}"
                raise DataError(f"{self.report.path}: every {value}; there is nothing to tell apart")
        return TextDataset(self, _tokenize(self, model))


@dataclass(frozen=True)
class _Texts:
    """The texts of rows, which can be gone through more than once."""

    rows: Dataset

    def __iter__(self) -> Iterator[list[str]]:
        for block in self.rows.with_format("arrow").iter(_ROWS_A_BLOCK):
            yield from block["texts"].to_pylist()


@dataclass(frozen=True)
class TextDataset:
    """Examples as read and as tokenised, row for row.

    Attributes:
        records: as read.
        tokens: "input_ids" (T,) of an example's texts one after the other, "lengths" (K,), "text_ids" (K,) equal
            where texts' tokens are, "truncated", how many of the texts were cut, and "labels": a pair's score, or a
            number that is equal where classes' names are.
    """

    records: Records
    tokens: Dataset

    def __len__(self) -> int:
        return len(self.records)

    @property
    def data_format(self) -> DataFormat:
        """What an example is."""
        return self.records.data_format

    def select(self, indices: NDArray[np.int64]) -> "TextDataset":
        """Some of the examples."""
        return TextDataset(self.records.select(indices), self.tokens.select(indices))

    @cached_property
    def num_texts(self) -> NDArray[np.int64]:
        """(n,) K of each example."""
        return compute.list_value_length(self._column("lengths")).to_numpy().astype(np.int64)

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) float64 scores, or int64 class ids."""
        return self._column("labels").to_numpy()

    @property
    def text_ids(self) -> NDArray[np.int64]:
        """(sum of K,) text ids, example after example."""
        return self._column("text_ids").combine_chunks().flatten().to_numpy()

    @cached_property
    def positive_groups(self) -> PositiveGroups:
        """The texts of triplets that are known to match, by their anchors and positives."""
        anchors = np.cumsum(self.num_texts) - self.num_texts
        return PositiveGroups.of_pairs(self.text_ids[anchors[:, None] + [0, 1]])

    @property
    def truncated_share(self) -> float:
        """Share of texts that lost tokens to the length limit."""
        return float(compute.sum(self._column("truncated")).as_py() / self.num_texts.sum())

    def token_share(self, token_id: int | None) -> float:
        """Share of the tokens of the first 10,000 examples that are this one."""
        some = self.tokens.select(range(min(len(self), _ROWS_A_BLOCK))).with_format("arrow")["input_ids"][:]
        return float(np.mean(some.combine_chunks().flatten().to_numpy() == token_id))

    def num_tokens(self, num_examples: int) -> int:
        """Tokens of the first examples, the tokenizer's own around each text left out where there are two."""
        some = self.tokens.select(range(min(len(self), num_examples))).with_format("arrow")["lengths"][:]
        return int((some.combine_chunks().flatten().to_numpy() - 2).sum())

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.tokens.with_format("arrow")[name][:]


@dataclass(frozen=True)
class ExampleTokens:
    """Tokenised examples: text after text, example after example.

    Attributes:
        input_ids: (T,) int32, the tokens of all texts.
        lengths: (N,) int32, tokens in each text.
        text_ids: (N,) int64, equal where texts' tokens are.
        num_texts: (n,) int64, K of each example.
        labels: (n,) float64 scores, or int64 class ids. None: the examples have none.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    text_ids: NDArray[np.int64]
    num_texts: NDArray[np.int64]
    labels: NDArray[Any] | None = None


class TokenRows:
    """The rows of a token dataset, read a batch at a time.

    `datasets` builds Python objects for each row, which keeps a fast GPU waiting. Here the columns are arrays over the
    memory-mapped file, and a batch is copied out of them. Memory holds where each row's tokens and texts begin, 8 bytes
    each, and 8 more for the row's number where the dataset is a selection.

    Args:
        tokens: of a `TextDataset`.
    """

    def __init__(self, tokens: Dataset):
        self.tokens = tokens
        columns = {name: tokens.data.column(name) for name in tokens.column_names}
        self._input_ids = _MappedNumbers(compute.list_flatten(columns["input_ids"]))
        self._lengths = _MappedNumbers(compute.list_flatten(columns["lengths"]))
        self._text_ids = _MappedNumbers(compute.list_flatten(columns["text_ids"]))
        self._labels = _MappedNumbers(columns["labels"]) if "labels" in columns else None
        self._token_bounds = _bounds(compute.list_value_length(columns["input_ids"]).to_numpy())
        self._text_bounds = _bounds(compute.list_value_length(columns["lengths"]).to_numpy())
        # private, but `datasets` has no public name for a selection's row numbers, and copies what else it gives
        selection = tokens._indices
        self._selected = None if selection is None else selection.column(0).to_numpy().astype(np.int64)

    def __reduce__(self) -> tuple[type["TokenRows"], tuple[Dataset]]:
        return type(self), (self.tokens,)  # a worker process maps the file itself; arrays would travel as copies

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example as a dict, from which transformers takes the length when it groups rows by length."""
        row = self.__getitems__([range(len(self))[index]])  # an IndexError ends an iteration
        example: dict[str, Any] = {"input_ids": row.input_ids, "lengths": row.lengths, "text_ids": row.text_ids}
        return example if row.labels is None else {**example, "labels": row.labels[0]}

    def __getitems__(self, indices: Sequence[int]) -> ExampleTokens:
        """Several examples, in the order of their indices; a data loader fetches a batch with this call."""
        rows = np.asarray(indices, dtype=np.int64)
        if self._selected is not None:
            rows = self._selected[rows]
        tokens = self._token_bounds[rows], self._token_bounds[rows + 1]
        texts = self._text_bounds[rows], self._text_bounds[rows + 1]
        return ExampleTokens(
            input_ids=self._input_ids.between(*tokens),
            lengths=self._lengths.between(*texts),
            text_ids=self._text_ids.between(*texts),
            num_texts=texts[1] - texts[0],
            labels=None if self._labels is None else self._labels.between(rows, rows + 1),
        )


class _MappedNumbers:
    """A column of numbers in chunks, read where Arrow has mapped or holds them."""

    def __init__(self, column: pa.ChunkedArray):
        self._chunks = [chunk.to_numpy() for chunk in column.chunks]
        self._bounds = _bounds([len(chunk) for chunk in self._chunks])
        self._none = np.empty(0, column.type.to_pandas_dtype())  # concatenate needs one array at least

    def between(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
        """Copy several ranges, none of which crosses from chunk to chunk, one after the other."""
        chunks = np.searchsorted(self._bounds, starts, side="right") - 1
        first = self._bounds[chunks]
        ranges = zip(chunks.tolist(), (starts - first).tolist(), (stops - first).tolist(), strict=True)
        return np.concatenate([self._none, *[self._chunks[chunk][start:stop] for chunk, start, stop in ranges]])


def read_records(
    path: str | Path,
    *,
    data_format: DataFormat = "auto",
    text_columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    on_bad_rows: OnBadRows = "error",
    likely_format: DataFormat | None = None,
) -> Records:
    """Read and check a file.

    Its rows go to an Arrow file in the `datasets` cache: memory does not grow with the data.

    Args:
        path: the file; see `open_rows` for its kinds, and `ExampleReader` for how its columns are found.
        data_format: what a row means: "pairs" (text, text, score), "sentences", "triplets" (anchor, positive,
            negatives), "classes" (text, class); "auto" tells by names and fields.
        text_columns: the text columns, by name or, in a file without a header, by position from 0.
        label_column: the label's column, likewise.
        on_bad_rows: "error" raises at the end of the file if any row is bad, "skip" leaves bad rows out.
        likely_format: what rows of two fields without names mean, which "auto" cannot tell.

    Returns:
        The examples.

    Raises:
        DataError: see `ExampleReader`.
        ValueError: if the format is unknown.
    """
    columns = Columns(data_format, text_columns, label_column, likely_format)
    reader = ExampleReader(path, columns, on_bad_rows=on_bad_rows)
    rows, digest = _to_arrow(reader)
    assert reader.data_format is not None  # else there was no row, which is an error
    return Records(reader.data_format, rows, reader.report, digest)


def load_data(path: str | Path, model: SentenceBert, **options: Any) -> TextDataset:
    """Read, check and tokenise a file.

    Args:
        path: the file.
        model: whose tokenizer and length are used.
        options: those of `read_records`.

    Returns:
        The examples and their tokens.

    Raises:
        DataError: see `read_records` and `Records.tokenize`.
    """
    return read_records(path, **options).tokenize(model)


def _to_arrow(examples: Iterable[Example]) -> tuple[Dataset, str]:
    """Write examples to an Arrow file that is named by its content; the rows and that name."""
    folder = Path(config.HF_DATASETS_CACHE) / "cosent"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"unfinished-{uuid4().hex}.arrow"  # machines that share it may have equal process ids
    content = blake2b(digest_size=16)
    examples = iter(examples)
    block = list(islice(examples, _ROWS_A_BLOCK))
    label = _LABELS.get(type(block[0].label))
    schema = pa.schema([("texts", pa.list_(pa.string())), *([("label", label)] if label else [])])
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while block:
                columns = {"texts": [example.texts for example in block], "label": [example.label for example in block]}
                batch = pa.record_batch([pa.array(columns[column.name], column.type) for column in schema], schema)
                for buffer in (buffer for column in batch.columns for buffer in column.buffers() if buffer):
                    content.update(buffer)
                writer.write_batch(batch)
                block = list(islice(examples, _ROWS_A_BLOCK))
        finished = folder / f"records-{content.hexdigest()}.arrow"
        unfinished.replace(finished)
    finally:
        unfinished.unlink(missing_ok=True)
    return Dataset.from_file(str(finished)), content.hexdigest()


def _tokenize(records: Records, model: SentenceBert) -> Dataset:
    limit = model.max_length

    def tokenize_rows(rows: dict[str, list]) -> pa.Table:
        texts = model.prepare([text for texts in rows["texts"] for text in texts])
        tokens = tokenize(model.tokenizer, texts, limit)  # of N texts
        cut = is_truncated(model.tokenizer, texts, tokens, limit)
        texts_at = np.cumsum([0, *map(len, rows["texts"])])
        tokens_at = np.concatenate([[0], tokens.lengths.cumsum()])[texts_at]
        columns = {
            "input_ids": _lists(tokens_at, tokens.input_ids),
            "lengths": _lists(texts_at, tokens.lengths.astype(np.int32)),
            "text_ids": _lists(texts_at, tokens.text_ids()),
            "truncated": pa.array(np.add.reduceat(np.asarray(cut, np.int32), texts_at[:-1])),
        }
        return pa.table(columns | ({"labels": _label_ids(rows["label"])} if "label" in rows else {}))

    features = {"input_ids": ListOf(Value("int32")), "lengths": ListOf(Value("int32")), "text_ids": ListOf(_INT64)}
    label = {float: Value("float64"), str: _INT64, None: None}[FORMATS[records.data_format].label]
    # named by what the tokens depend on: the default name would hash the model's weights too
    depends_on = repr((records.digest, tokenizer_digest(model.tokenizer), limit, model.prepare(["Aa"])))
    return records.rows.map(
        tokenize_rows,
        batched=True,
        remove_columns=records.rows.column_names,
        features=Features({**features, "truncated": Value("int32"), **({"labels": label} if label else {})}),
        new_fingerprint=blake2b(depends_on.encode(), digest_size=16).hexdigest(),
        desc="Tokenising",
    )


def _bounds(counts: NDArray[np.int32] | list[int]) -> NDArray[np.int64]:
    """Where each of several runs begins, and behind them where the last ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _lists(offsets: NDArray[np.int64], values: NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _label_ids(labels: list[float] | list[str]) -> pa.Array:
    """Scores as they are; for a class's name its 64-bit BLAKE2b, which is the same in every file."""
    if isinstance(labels[0], str):
        digests = [blake2b(str(name).encode(), digest_size=8).digest() for name in labels]
        return pa.array(np.frombuffer(b"".join(digests), dtype=np.int64))
    return pa.array(labels, pa.float64())
