"""Rows of token datasets as the flat batch that travels to the model.

Shapes: K texts an example, B examples, N = K*B texts, T tokens of all texts one after the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class TokenBatchCollator:
    """Lays the texts of a batch out column by column: all first texts, then all second texts, and so on.

    It only concatenates: the tokens were made when the dataset was.
    """

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            examples: B rows with "input_ids" (their texts' tokens one after the other), "lengths" (K,),
                "text_ids" (K,) and, in labelled data, "labels".

        Returns:
            "input_ids" (T,) int64, "lengths" (N,) int64, "text_ids" (N,) int64 and, where rows have them,
            "labels" (B,) float32.
        """
        lengths = np.array([example["lengths"] for example in examples])  # (B, K)
        text_ids = np.array([example["text_ids"] for example in examples])  # (B, K)
        texts = [
            np.split(np.asarray(example["input_ids"]), np.cumsum(example["lengths"])[:-1]) for example in examples
        ]  # B lists of K
        batch = {
            "input_ids": torch.from_numpy(
                np.concatenate([text for column in zip(*texts, strict=True) for text in column])
            ).long(),
            "lengths": torch.from_numpy(lengths.T.reshape(-1)).long(),
            "text_ids": torch.from_numpy(text_ids.T.reshape(-1)),
        }
        if "labels" in examples[0]:
            batch["labels"] = torch.tensor([example["labels"] for example in examples], dtype=torch.float32)
        return batch
