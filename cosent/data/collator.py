"""Collates rows of token datasets into the flat batch of the model.

Shapes: K texts per example, B examples, N = K*B texts, T tokens of all texts, concatenated.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cosent.batch import NO_TEXT, TokenBatch
from cosent.data.token_rows import ExampleTokens


class TokenBatchCollator:
    """Arranges the texts of a batch column by column: all first texts, then all second texts, and so on.

    The texts are already tokenised. If examples differ in K, a missing text has no tokens, no entry in `lengths`, and
    the text id `NO_TEXT`.

    Args:
        num_views: number of copies of each text in the batch; 2 for the two views of unsupervised SimCSE.
        label_dtype: type of the batch's labels. None: the examples have none.
        groups: maps (N,) text ids to (N,) ids of groups of matching texts, as `PositiveGroups` does.
    """

    def __init__(
        self,
        *,
        num_views: int = 1,
        label_dtype: torch.dtype | None = None,
        groups: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None,
    ):
        self.num_views = num_views
        self.label_dtype = label_dtype
        self.groups = groups

    def __call__(self, examples: ExampleTokens) -> TokenBatch:
        """Make a batch.

        Args:
            examples: B examples; B may be 0.

        Returns:
            The batch.
        """
        num_examples = len(examples.num_texts)
        columns = int(examples.num_texts.max(initial=1))
        example = np.repeat(np.arange(num_examples), examples.num_texts)  # the example of each text
        column = _ranges(np.zeros_like(examples.num_texts), examples.num_texts)
        place = column * num_examples + example
        text_ids = np.full(columns * num_examples, NO_TEXT)
        text_ids[place] = examples.text_ids
        text_ids = np.tile(text_ids, self.num_views)  # (N,)

        texts = np.tile(np.argsort(place), self.num_views)  # index of each batch text among the examples' texts
        token_starts = np.cumsum(examples.lengths) - examples.lengths
        lengths = examples.lengths[texts]
        batch: TokenBatch = {
            "input_ids": torch.from_numpy(examples.input_ids[_ranges(token_starts[texts], lengths)]).long(),
            "lengths": torch.from_numpy(lengths).long(),
            "max_length": int(lengths.max(initial=0)),
            "host_lengths": lengths,
            "text_ids": torch.from_numpy(text_ids),
            "num_columns": columns * self.num_views,
        }
        if self.groups is not None:
            batch["group_ids"] = torch.from_numpy(self.groups(text_ids))
        if self.label_dtype is not None:
            assert examples.labels is not None  # a dtype is only given for labelled data
            batch["labels"] = torch.from_numpy(examples.labels).to(self.label_dtype)
        return batch


def _ranges(starts: NDArray[np.int64], counts: NDArray[Any]) -> NDArray[np.int64]:
    """Concatenate ranges: starts 5, 0 and counts 2, 3 give 5, 6, 0, 1, 2."""
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(starts - ends + counts, counts)
