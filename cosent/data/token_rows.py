"""Reads the rows of a token dataset batch by batch, straight from the memory-mapped file.

Shapes: n examples, K texts in each, N texts, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray


@dataclass(frozen=True)
class ExampleTokens:
    """Tokenised examples, concatenated.

    Attributes:
        input_ids: (T,) int32, the tokens of all texts.
        lengths: (N,) int32, number of tokens in each text.
        text_ids: (N,) int64, equal for texts with equal tokens.
        num_texts: (n,) int64, K of each example.
        labels: (n,) float64 scores or int64 class ids. None: the examples have none.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    text_ids: NDArray[np.int64]
    num_texts: NDArray[np.int64]
    labels: NDArray[Any] | None = None


class TokenRows:
    """The rows of a token dataset, read batch by batch.

    `datasets` builds Python objects for each row, which is too slow for a fast GPU. Here the columns are arrays over
    the memory-mapped file, and a batch is copied out of them. Memory does not grow with the data, except by 8 bytes for
    each row of a selection.

    Args:
        tokens: the tokens of a `TextDataset`.
    """

    def __init__(self, tokens: Dataset):
        self.tokens = tokens
        columns = {name: tokens.data.column(name) for name in tokens.column_names}
        self._input_ids, self._lengths, self._text_ids = (
            _MappedLists(columns[name]) for name in ("input_ids", "lengths", "text_ids")
        )
        self._labels = _MappedNumbers(columns["labels"]) if "labels" in columns else None
        # private, but `datasets` has no public access to a selection's indices other than copies
        selection = tokens._indices
        self._selected = None if selection is None else selection.column(0).to_numpy().astype(np.int64)

    def __reduce__(self) -> tuple[type["TokenRows"], tuple[Dataset]]:
        return type(self), (self.tokens,)  # a worker process maps the file itself; arrays would be copied to it

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one example as a dict; transformers reads its length when it groups rows by length."""
        row = self.__getitems__([range(len(self))[index]])  # an IndexError ends an iteration
        example: dict[str, Any] = {"input_ids": row.input_ids, "lengths": row.lengths, "text_ids": row.text_ids}
        return example if row.labels is None else {**example, "labels": row.labels[0]}

    def __getitems__(self, indices: Sequence[int]) -> ExampleTokens:
        """Return several examples, in the order of their indices; a data loader fetches a batch with this call."""
        rows = np.asarray(indices, dtype=np.int64)
        if self._selected is not None:
            rows = self._selected[rows]
        lengths = self._lengths.at(rows)
        return ExampleTokens(
            input_ids=np.concatenate(self._input_ids.at(rows)),
            lengths=np.concatenate(lengths),
            text_ids=np.concatenate(self._text_ids.at(rows)),
            num_texts=np.array([len(texts) for texts in lengths[1:]], dtype=np.int64),
            labels=None if self._labels is None else self._labels.at(rows),
        )


class _MappedLists:
    """A chunked column of lists of numbers, read from Arrow's memory without a copy."""

    def __init__(self, column: pa.ChunkedArray):
        self._offsets = [chunk.offsets.to_numpy() for chunk in column.chunks]
        self._values = [chunk.values.to_numpy() for chunk in column.chunks]
        self._bounds = _bounds(column)
        self._none = np.empty(0, column.type.value_type.to_pandas_dtype())

    def at(self, rows: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return views of the lists of rows, after an empty one, since np.concatenate needs at least one array."""
        chunks = np.searchsorted(self._bounds, rows, side="right") - 1
        lists = [self._none]
        for chunk, row in zip(chunks.tolist(), (rows - self._bounds[chunks]).tolist(), strict=True):
            offset = self._offsets[chunk].item
            lists.append(self._values[chunk][offset(row) : offset(row + 1)])
        return lists


class _MappedNumbers:
    """A chunked column of numbers, read from Arrow's memory without a copy."""

    def __init__(self, column: pa.ChunkedArray):
        self._chunks = [chunk.to_numpy() for chunk in column.chunks]
        self._bounds = _bounds(column)
        self._dtype = column.type.to_pandas_dtype()

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy the numbers of rows."""
        chunks = np.searchsorted(self._bounds, rows, side="right") - 1
        places = zip(chunks.tolist(), (rows - self._bounds[chunks]).tolist(), strict=True)
        return np.array([self._chunks[chunk].item(row) for chunk, row in places], dtype=self._dtype)


def _bounds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Compute the number of the first row of each chunk, followed by that of all rows."""
    return np.cumsum([0, *map(len, column.chunks)], dtype=np.int64)
