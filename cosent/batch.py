"""What travels from the collator to the model and the loss: K texts an example, laid out column by column, flat.

Shapes: B examples, K texts in one at most, N = K*B places for texts, T tokens of all texts one after the other.
"""

from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# The text id of a place that holds no text, where an example has fewer texts than others of its batch: a number that
# nobody counts with, and that a 64-bit hash of a text hits once in 2**64.
NO_TEXT = -(2**63)


class TokenBatch(TypedDict):
    """A batch. All first texts come first, then all second texts, and so on; a missing text has no length.

    Attributes:
        input_ids: (T,) int64 tokens, text after text.
        lengths: int64 tokens in each text that is not missing, summing to T.
        host_lengths: the same, which stays on the CPU: asking a GPU for them would wait for what it is doing.
        max_length: the longest of them.
        text_ids: (N,) int64, equal exactly where texts' tokens are; `NO_TEXT` where a text is missing.
        num_columns: K.
        labels: (B,) float32 scores or int64 classes, where examples have labels.
        group_ids: (N,) int64, equal exactly where texts are known to match, where examples tell.
    """

    input_ids: Tensor
    lengths: Tensor
    host_lengths: NDArray[np.integer]
    max_length: int
    text_ids: Tensor
    num_columns: int
    labels: NotRequired[Tensor]
    group_ids: NotRequired[Tensor]
