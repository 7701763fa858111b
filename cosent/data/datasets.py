"""Memory-mapped, tokenised datasets of examples.

Shapes: n examples, K texts in each, N texts, T tokens.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain
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
from cosent.data.lines import MAX_TEXT_BYTES
from cosent.data.positives import PositiveGroups, is_match, matching_pairs
from cosent.data.readers import ExampleReader, OnBadRows, ReadReport, joint_report
from cosent.data.shown import shown
from cosent.data.sources import Data, name_of, sources_of
from cosent.data.token_cache import cached_file, discard, discard_damaged, is_sealed, seal
from cosent.errors import DataError, UserError
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import is_truncated, tokenize, tokenizer_digest

logger = logging.getLogger(__name__)

_LABELS = {float: pa.float64(), str: pa.string()}
_INT64 = Value("int64")
_ROWS_A_BLOCK = 10_000
_CHARACTERS_A_BLOCK = 2**25


@dataclass(frozen=True)
class Records:
    """Examples as read from a source.

    Attributes:
        data_format: the format of the examples.
        rows: the columns "texts", K texts each, and, if the format has labels, "label", a score or a class name.
        report: the report of reading the source.
        digest: digest of the content.
    """

    data_format: DataFormat
    rows: Dataset
    report: ReadReport
    digest: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> Iterable[list[str]]:
        """The K texts of each of the n examples, read in blocks, unlike those of `rows`."""
        return _Texts(self.rows)

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) float64 scores or class names."""
        return self.rows.with_format("arrow")["label"][:].to_numpy()

    def select(self, indices: NDArray[np.int64]) -> "Records":
        """Select examples by index."""
        digest = blake2b(self.digest.encode() + np.asarray(indices, np.int64).tobytes(), digest_size=16).hexdigest()
        return replace(self, rows=self.rows.select(indices), digest=digest)

    def sample(self, number: int, seed: int) -> "Records":
        """Draw a random sample without replacement, in the source's order; all examples if there are no more."""
        if number >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(seed).choice(len(self), number, replace=False)))

    def to_triplets(self, *, use_negatives: bool = False, positive_label_min: float | None = None) -> "Records":
        """Turn pairs into anchors with positives, from which a contrastive loss learns.

        Args:
            use_negatives: use the second texts of non-matching pairs as hard negatives of their first text.
            positive_label_min: the lowest label of a match; 0/1 labels need none.

        Returns:
            An example for each matching pair.

        Raises:
            DataError: if labels do not say what matches, or no pair matches.
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
        """Tokenise all texts; the `datasets` cache keeps the tokens for each tokenizer and maximum length.

        Args:
            model: the model whose tokenizer and maximum length are used.

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
    """The texts of rows; can be iterated more than once."""

    rows: Dataset

    def __iter__(self) -> Iterator[list[str]]:
        for block in self.rows.with_format("arrow").iter(_ROWS_A_BLOCK):
            yield from block["texts"].to_pylist()


@dataclass(frozen=True)
class TextDataset:
    """Examples as read and as tokenised, row by row.

    Attributes:
        records: the examples as read.
        tokens: the columns "input_ids" (T,), the concatenated tokens of an example's texts; "lengths" (K,); "text_ids"
            (K,), equal for texts with equal tokens; "truncated", the number of truncated texts; and "labels", a score
            or an id of the class.
    """

    records: Records
    tokens: Dataset

    def __post_init__(self) -> None:
        if not isinstance(self.records, Records):
            raise TypeError(
                f"a TextDataset is made by load_data(source, model); got {shown(self.records)} of type "
                f"{type(self.records).__name__}"
            )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def data_format(self) -> DataFormat:
        """The format of the examples."""
        return self.records.data_format

    def select(self, indices: NDArray[np.int64]) -> "TextDataset":
        """Select examples by index."""
        return TextDataset(self.records.select(indices), self.tokens.select(indices))

    @cached_property
    def num_texts(self) -> NDArray[np.int64]:
        """(n,) numbers of texts, K of each example."""
        return compute.list_value_length(self._column("lengths")).to_numpy().astype(np.int64)

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) float64 scores or int64 class ids."""
        return self._column("labels").to_numpy()

    @property
    def text_ids(self) -> NDArray[np.int64]:
        """(sum of K,) text ids, example after example."""
        return self._column("text_ids").combine_chunks().flatten().to_numpy()

    @cached_property
    def positive_groups(self) -> PositiveGroups:
        """The groups of texts that are known to match, from the anchors and positives of triplets."""
        anchors = np.cumsum(self.num_texts) - self.num_texts
        return PositiveGroups.of_pairs(self.text_ids[anchors[:, None] + [0, 1]])

    @property
    def truncated_share(self) -> float:
        """The share of texts that were truncated."""
        return float(compute.sum(self._column("truncated")).as_py() / self.num_texts.sum())

    def token_share(self, token_id: int | None) -> float:
        """Compute the share of a token among the tokens of the first 10,000 examples."""
        some = self.tokens.select(range(min(len(self), _ROWS_A_BLOCK))).with_format("arrow")["input_ids"][:]
        return float(np.mean(some.combine_chunks().flatten().to_numpy() == token_id))

    def num_tokens(self, num_examples: int) -> int:
        """Count the tokens of the first examples, without the two that the tokenizer usually adds to each text."""
        some = self.tokens.select(range(min(len(self), num_examples))).with_format("arrow")["lengths"][:]
        return int((some.combine_chunks().flatten().to_numpy() - 2).sum())

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.tokens.with_format("arrow")[name][:]


def read_records(
    source: Data,
    *,
    data_format: DataFormat = "auto",
    text_columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    on_bad_rows: OnBadRows = "error",
    likely_format: DataFormat | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
    split: str | None = None,
    revision: str | None = None,
    usual_split: str = "train",
) -> Records:
    """Read and check examples, wherever they are.

    The rows go to an Arrow file in the `datasets` cache, so that memory does not grow with the data.

    Args:
        source: a path: a TSV, CSV, JSON lines or Parquet file, optionally gzipped; a glob; a folder of such files or
            of `Dataset.save_to_disk`. Or a dataset of the Hub: "hub:owner/name", with "@revision", ":config" and
            ":split" if needed. Or a list of paths, a pandas DataFrame, a `datasets` Dataset or DatasetDict, or any
            iterable of tuples or of dicts, one for each example.
        data_format: the format: "pairs" (text, text, score), "sentences", "triplets" (anchor, positive, negatives) or
            "classes" (text, class); "auto" detects it from column names and fields.
        text_columns: the text columns, by name or, without a header, by position from 0.
        label_column: the label column, by name or position.
        on_bad_rows: "error" raises at the end of the source if any row is bad, "skip" leaves bad rows out.
        likely_format: the format of rows with two unnamed fields, which "auto" cannot detect.
        max_text_bytes: maximum number of bytes in a line, in a row of a .csv file, and in a text of a table.
        split: the split of a dataset of the Hub, a DatasetDict, or a folder. None: the only one, or `usual_split`.
        revision: revision of a dataset of the Hub.
        usual_split: the split to take if none is named, "train", "validation" or "test".

    Returns:
        The examples.

    Raises:
        DataError: if the source or its rows cannot be used, as in `ExampleReader`.
        TypeError: if the source is of a type that is not taken; the message lists those that are.
        ValueError: if the format is unknown.
    """
    columns = Columns(data_format, text_columns, label_column, likely_format)
    sources = sources_of(source, split=split, revision=revision, usual=usual_split)
    readers = [ExampleReader(part, columns, on_bad_rows=on_bad_rows, max_text_bytes=max_text_bytes) for part in sources]
    rows, digest = _to_arrow(_of_one_format(readers))
    found = readers[0].data_format
    assert found is not None  # otherwise there was no row, which is an error
    return Records(found, rows, joint_report([reader.report for reader in readers], name_of(sources)), digest)


def load_data(source: Data, model: SentenceBert, **options: Any) -> TextDataset:
    """Read, check and tokenise examples, wherever they are.

    Args:
        source: the examples, as in `read_records`: a path, a dataset, a DataFrame, a list, ...
        model: the model whose tokenizer and maximum length are used.
        options: further arguments of `read_records`.

    Returns:
        The examples and their tokens.

    Raises:
        DataError: if the source or its rows cannot be used, or all labels are the same.
        TypeError: if the source is of a type that is not taken.
    """
    return read_records(source, **options).tokenize(model)


def _of_one_format(readers: list[ExampleReader]) -> Iterator[Example]:
    """Yield the examples of several sources, which must have the same format."""
    first = readers[0]
    for reader in readers:
        if reader is not first and reader.columns.likely is None:
            reader.columns = replace(reader.columns, likely=first.data_format)
        for example in reader:
            if reader.data_format != first.data_format:
                raise DataError(
                    f"{reader.source.name} holds {reader.data_format}, and {first.source.name} {first.data_format}: "
                    "examples are read together only if they have one format"
                )
            yield example


def _to_arrow(examples: Iterable[Example]) -> tuple[Dataset, str]:
    """Write examples to an Arrow file named by a digest of its content, and return the rows and the digest."""
    folder = Path(config.HF_DATASETS_CACHE) / "cosent"
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return _write(examples, folder)


def _write(examples: Iterable[Example], folder: Path) -> tuple[Dataset, str]:
    unfinished = folder / f"unfinished-{uuid4().hex}.arrow"  # process ids are not unique on a shared folder
    content = blake2b(digest_size=16)
    blocks = _blocks(examples)
    first = next(blocks)
    label = _LABELS.get(type(first[0].label))
    schema = pa.schema([("texts", pa.list_(pa.string())), *([("label", label)] if label else [])])
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for block in chain([first], blocks):
                columns = {"texts": [example.texts for example in block], "label": [example.label for example in block]}
                batch = pa.record_batch([pa.array(columns[column.name], column.type) for column in schema], schema)
                for buffer in (buffer for column in batch.columns for buffer in column.buffers() if buffer):
                    content.update(buffer)
                writer.write_batch(batch)
        finished = folder / f"records-{content.hexdigest()}.arrow"
        unfinished.replace(finished)
    finally:
        unfinished.unlink(missing_ok=True)
    return Dataset.from_file(str(finished)), content.hexdigest()


def _blocks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Collect examples in lists, which are shorter if texts are long."""
    block: list[Example] = []
    characters = 0
    for example in examples:
        block.append(example)
        characters += sum(map(len, example.texts))
        if len(block) == _ROWS_A_BLOCK or characters >= _CHARACTERS_A_BLOCK:
            yield block
            block, characters = [], 0
    if block:
        yield block


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn an error in writing to the cache into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"the cache {folder} cannot be written: {reason}. The environment variable HF_DATASETS_CACHE names another"
        ) from error


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
    # the fingerprint covers what the tokens depend on: the default one would also hash the model's weights
    depends_on = repr((records.digest, tokenizer_digest(model.tokenizer), limit, model.prepare(["Aa"])))
    return _cached_map(
        records.rows,
        tokenize_rows,
        features=Features({**features, "truncated": Value("int32"), **({"labels": label} if label else {})}),
        new_fingerprint=blake2b(depends_on.encode(), digest_size=16).hexdigest(),
        desc="Tokenising",
    )


def _cached_map(
    rows: Dataset, function: Callable[[dict[str, list]], pa.Table], *, new_fingerprint: str, **options: Any
) -> Dataset:
    """Apply a function to all rows and cache the result with `datasets`; a damaged result is recreated."""
    path = cached_file(rows, new_fingerprint)
    options |= {"new_fingerprint": new_fingerprint, "remove_columns": rows.column_names, "batched": True}
    options["batch_size"] = min(1_000, max(1, _CHARACTERS_A_BLOCK * len(rows) // max(rows.data.nbytes, 1)))
    if path is None:
        return rows.map(function, **options)
    with _writable(path.parent):
        discard_damaged(path)
        try:
            mapped = rows.map(function, **options)
        except (OSError, pa.ArrowException):  # another process has removed the file, or another version has written it
            discard(path)
            mapped = rows.map(function, load_from_cache_file=False, **options)
        if not is_sealed(path):
            seal(path)
    return mapped


def _lists(offsets: NDArray[np.int64], values: NDArray[Any]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def _label_ids(labels: list[float] | list[str]) -> pa.Array:
    """Return scores unchanged, and class names as 64-bit BLAKE2b hashes, which are the same in every file."""
    if isinstance(labels[0], str):
        digests = [blake2b(str(name).encode(), digest_size=8).digest() for name in labels]
        return pa.array(np.frombuffer(b"".join(digests), dtype=np.int64))
    return pa.array(labels, pa.float64())
