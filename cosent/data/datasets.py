"""Memory-mapped, tokenised datasets of examples.

Shapes: n examples, K texts in each, N texts, T tokens.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets import List as ListOf
from numpy.typing import NDArray
from pyarrow import compute

from cosent.data.formats import FORMATS, DataFormat, Example
from cosent.data.lines import MAX_TEXT_BYTES
from cosent.data.positives import PositiveGroups, is_match, matching_pairs
from cosent.data.readers import OnBadRows, ReadReport, joint_report, open_readers, read_all
from cosent.data.record_files import CHARACTERS_A_BLOCK, ROWS_A_BLOCK, writable_cache, write_examples
from cosent.data.shown import shown
from cosent.data.sources import Data
from cosent.data.token_cache import cached_file, discard, discard_damaged, is_sealed, seal
from cosent.errors import DataError
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import is_truncated, tokenize, tokenizer_digest

logger = logging.getLogger(__name__)

_INT64 = Value("int64")


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
    def name(self) -> str:
        """The name of the source, for messages."""
        return self.report.path

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
            raise DataError(f"{self.name} holds {self.data_format}; pairs become triplets")
        matches = is_match(self.labels, positive_label_min)
        if matches is None:
            raise DataError(f"{self.name}: labels are graded; positive_label_min says from which one on a pair matches")
        if not matches.any():
            raise DataError(f"{self.name}: no pair matches, so there is no positive to learn from")
        rows, digest = write_examples(matching_pairs(self.texts, matches, use_negatives=use_negatives))
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
                raise DataError(f"{self.name}: every {value}; there is nothing to tell apart")
        tokenization = _tokenization(model)
        return TextDataset(self, _tokenize(self, model, tokenization), tokenization)


@dataclass(frozen=True)
class _Texts:
    """The texts of rows; can be iterated more than once."""

    rows: Dataset

    def __iter__(self) -> Iterator[list[str]]:
        for block in self.rows.with_format("arrow").iter(ROWS_A_BLOCK):
            yield from block["texts"].to_pylist()


@dataclass(frozen=True)
class TextDataset:
    """Examples as read and as tokenised, row by row.

    Attributes:
        records: the examples as read.
        tokens: the columns "input_ids" (T,), the concatenated tokens of an example's texts; "lengths" (K,); "text_ids"
            (K,), equal for texts with equal tokens; "truncated", the number of truncated texts; and "labels", a score
            or an id of the class.
        tokenization: digest of what the tokens depend on besides the texts.
    """

    records: Records
    tokens: Dataset
    tokenization: str = ""

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

    @property
    def name(self) -> str:
        """The name of the source, for messages."""
        return self.records.name

    def head(self, number: int) -> list[Example]:
        """Return the first examples; the label of a class is its name.

        Args:
            number: the most to return.
        """
        rows = self.records.rows.select(range(min(number, len(self))))
        return [Example(tuple(row["texts"]), row.get("label")) for row in rows]

    def select(self, indices: NDArray[np.int64]) -> "TextDataset":
        """Select examples by index."""
        return replace(self, records=self.records.select(indices), tokens=self.tokens.select(indices))

    def suiting(self, model: SentenceBert) -> "TextDataset":
        """Return this dataset if it has the model's tokens, or else the same examples with them.

        Args:
            model: the model that is to embed the tokens.
        """
        return self if self.tokenization == _tokenization(model) else self.records.tokenize(model)

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
        some = self.tokens.select(range(min(len(self), ROWS_A_BLOCK))).with_format("arrow")["input_ids"][:]
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
            iterable of tuples or of dicts, one for each example. Records are returned as they are, and those of a
            dataset.
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
    if isinstance(source, (Records, TextDataset)):
        return source.records if isinstance(source, TextDataset) else source
    readers = open_readers(
        source,
        data_format=data_format,
        text_columns=text_columns,
        label_column=label_column,
        on_bad_rows=on_bad_rows,
        likely_format=likely_format,
        max_text_bytes=max_text_bytes,
        split=split,
        revision=revision,
        usual_split=usual_split,
    )
    rows, digest = write_examples(read_all(readers))
    found = readers[0].data_format
    assert found is not None  # otherwise there was no row, which is an error
    return Records(found, rows, joint_report(readers), digest)


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


def check_model(model: Any) -> None:
    """Refuse what is no model, such as a path.

    Raises:
        TypeError: if so.
    """
    if not isinstance(model, SentenceBert):
        raise TypeError(f"model must be a SentenceBert, such as SentenceBert('folder'); got {shown(model)}")


def _tokenization(model: SentenceBert) -> str:
    """Compute a digest of what the tokens of a text depend on.

    Raises:
        TypeError: if the model is none.
    """
    check_model(model)
    depends_on = repr((tokenizer_digest(model.tokenizer), model.max_length, model.prepare(["Aa"])))
    return blake2b(depends_on.encode(), digest_size=16).hexdigest()


def _tokenize(records: Records, model: SentenceBert, tokenization: str) -> Dataset:
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
    depends_on = repr((records.digest, tokenization))
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
    options["batch_size"] = min(1_000, max(1, CHARACTERS_A_BLOCK * len(rows) // max(rows.data.nbytes, 1)))
    if path is None:
        return rows.map(function, **options)
    with writable_cache(path.parent):
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
