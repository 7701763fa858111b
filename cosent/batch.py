"""The batch that the collator passes to the model and the loss: flat, with K texts per example, column by column.

Shapes: B examples, K texts in each at most, N = K*B places for texts, T tokens of all texts, concatenated.
"""

from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# The text id of an empty place, in an example with fewer texts than others of its batch. A 64-bit hash of a text takes
# this value once in 2**64.
NO_TEXT = -(2**63)


class TokenBatch(TypedDict):
    """A batch: all first texts, then all second texts, and so on; `lengths` leaves missing texts out.

    Attributes:
        input_ids: (T,) int64 tokens, text after text.
        lengths: int64, number of tokens in each text that is not missing, summing to T.
        host_lengths: a copy of `lengths` on the CPU: reading them from a GPU would wait for its work to finish.
        max_length: the largest of the lengths.
        text_ids: (N,) int64, equal exactly for texts with equal tokens; `NO_TEXT` where a text is missing.
        num_columns: K.
        labels: (B,) float32 scores or int64 classes, if the examples have labels.
        group_ids: (N,) int64, equal exactly for texts that are known to match, if the examples say so.
    """

    input_ids: Tensor
    lengths: Tensor
    host_lengths: NDArray[np.integer]
    max_length: int
    text_ids: Tensor
    num_columns: int
    labels: NotRequired[Tensor]
    group_ids: NotRequired[Tensor]
