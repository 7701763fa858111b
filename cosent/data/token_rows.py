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
from pyarrow import compute


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
    the memory-mapped file, and a batch is copied out of them. In memory, each row takes 8 bytes each for the start of
    its tokens and of its texts, and 8 more for its index if the dataset is a selection.

    Args:
        tokens: the tokens of a `TextDataset`.
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
    """A chunked column of numbers, read from Arrow's memory without a copy."""

    def __init__(self, column: pa.ChunkedArray):
        self._chunks = [chunk.to_numpy() for chunk in column.chunks]
        self._bounds = _bounds([len(chunk) for chunk in self._chunks])
        self._none = np.empty(0, column.type.to_pandas_dtype())  # np.concatenate needs at least one array

    def between(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
        """Copy and concatenate several ranges, each of which lies within one chunk."""
        chunks = np.searchsorted(self._bounds, starts, side="right") - 1
        first = self._bounds[chunks]
        ranges = zip(chunks.tolist(), (starts - first).tolist(), (stops - first).tolist(), strict=True)
        return np.concatenate([self._none, *[self._chunks[chunk][start:stop] for chunk, start, stop in ranges]])


def _bounds(counts: NDArray[np.int32] | list[int]) -> NDArray[np.int64]:
    """Compute the start of each run from the counts, followed by the end of the last run."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
