"""Rows of token datasets as the flat batch that travels to the model.

Shapes: K texts an example, B examples, N = K*B texts, T tokens of all texts one after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosent.losses.shapes import NO_TEXT


class TokenBatchCollator:
    """Lays the texts of a batch out column by column: all first texts, then all second texts, and so on.

    It only concatenates: the tokens were made when the dataset was. Where examples differ in K, a missing text has no
    tokens and no length, and `NO_TEXT` as its text id.

    Args:
        num_views: how often each text stands in the batch; 2 gives unsupervised SimCSE its second view.
        label_dtype: of the batch's labels. None: the examples have none.
        groups: gives the ids of groups of texts, (N,) from (N,), that match each other; see `PositiveGroups`.
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

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            examples: B rows, none included, with "input_ids" (their texts' tokens one after the other), "lengths" (K,),
                "text_ids" (K,) and, in labelled data, "labels".

        Returns:
            "input_ids" (T,) int64, "lengths" int64, one for each of the N texts that is not missing, "max_length" of
            them, "text_ids" (N,) int64, "num_columns" K and, of labelled data, "labels" (B,); with groups also
            "group_ids" (N,) int64.
        """
        columns = max((len(example["lengths"]) for example in examples), default=1)
        texts: list[list[NDArray | None]] = []  # B lists of K
        text_ids: list[list[int]] = []
        for example in examples:
            row = np.split(np.asarray(example["input_ids"]), np.cumsum(example["lengths"])[:-1])
            lacking = columns - len(row)
            texts.append([*row, *[None] * lacking] * self.num_views)
            text_ids.append([*example["text_ids"], *[NO_TEXT] * lacking] * self.num_views)
        in_columns = [text for column in zip(*texts, strict=True) for text in column if text is not None]
        ids = np.array(text_ids, dtype=np.int64).T.reshape(-1)
        batch: dict[str, Tensor | int] = {
            "input_ids": torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int32), *in_columns])).long(),
            "lengths": torch.tensor([len(text) for text in in_columns], dtype=torch.int64),
            "max_length": max(map(len, in_columns), default=0),
            "text_ids": torch.from_numpy(ids),
            "num_columns": columns * self.num_views,
        }
        if self.groups is not None:
            batch["group_ids"] = torch.from_numpy(self.groups(ids))
        if self.label_dtype is not None:
            # not through float: class ids have 64 bits
            labels = torch.from_numpy(np.array([example["labels"] for example in examples]))
            batch["labels"] = labels.to(self.label_dtype)
        return batch
