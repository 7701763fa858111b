"""Pooling: reduces token states to one embedding per text, on flat token batches.

Shapes: N texts, T tokens of all texts, concatenated, D dimensions.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cosent.errors import UserError
from cosent.kernels.packing import Layers

PoolingMode = str  # a key of POOLING_MODES
Reduction = Literal["mean", "cls", "max", "last"]


class Pooling(NamedTuple):
    """How token states become an embedding.

    Attributes:
        reduction: reduces a text's token states to one vector.
        sentence_transformers: sentence-transformers' name for the mode; None if it has no such mode. The checkpoint
            then holds cosent's name, which sentence-transformers refuses rather than computing other embeddings.
        layers: the layers whose states are pooled; "first_last" is the mean of the first and the last layer.
        uses_pooler: whether the backbone's own dense layer and tanh are applied last.
    """

    reduction: Reduction
    sentence_transformers: str | None
    layers: Layers = "last"
    uses_pooler: bool = False


POOLING_MODES: dict[PoolingMode, Pooling] = {
    "mean": Pooling("mean", "mean"),
    "cls": Pooling("cls", "cls"),
    "max": Pooling("max", "max"),
    "last": Pooling("last", "lasttoken"),
    "pooler": Pooling("cls", None, uses_pooler=True),
    "first_last_avg": Pooling("mean", None, layers="first_last"),
    "last_avg": Pooling("mean", "mean"),
}


def check_pooling_mode(mode: str) -> PoolingMode:
    """Check that a pooling mode exists.

    Args:
        mode: the name of the mode.

    Raises:
        UserError: if it does not exist; the message lists the modes.
    """
    if not isinstance(mode, str) or mode not in POOLING_MODES:
        raise UserError(f"pooling_mode must be one of {', '.join(POOLING_MODES)}, got {mode!r}")
    return mode


def pool(states: Tensor, lengths: Tensor, reduction: Reduction) -> Tensor:
    """Reduce the tokens of each text to one vector.

    There is no padding to mask: an embedding depends only on the text's own tokens.

    Args:
        states: (T, D) token states, text after text.
        lengths: (N,) tokens in each text, at least 1 each, summing to T.
        reduction: the "mean" or elementwise "max" over a text's tokens, its first ("cls") or its "last" token.

    Returns:
        (N, D) embeddings, float32 or float64.

    Raises:
        ValueError: if the reduction is unknown.
    """
    if states.dtype in (torch.float16, torch.bfloat16):
        states = states.float()  # a half-precision sum over a long text would lose precision
    ends = lengths.cumsum(0)  # (N,)
    if reduction == "cls":
        return states[ends - lengths]
    if reduction == "last":
        return states[ends - 1]
    if reduction not in ("mean", "max"):
        raise ValueError(f"reduction must be mean, cls, max or last, got {reduction!r}")
    text_of_token = torch.repeat_interleave(lengths, output_size=states.shape[0])  # (T,)
    if reduction == "mean":
        sums = states.new_zeros(len(lengths), states.shape[1]).index_add(0, text_of_token, states)
        return sums / lengths[:, None]
    start = states.new_full((len(lengths), states.shape[1]), -torch.inf)
    return start.scatter_reduce(0, text_of_token[:, None].expand_as(states), states, reduce="amax")
