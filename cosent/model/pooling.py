"""From token states to one embedding a text, on flat token batches.

Shapes: N texts, T tokens of all texts one after the other, D dimensions.
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
        reduction: of a text's token states to one vector.
        sentence_transformers: what sentence-transformers calls it; None where it has no such pooling. A checkpoint then
            holds our own name, which sentence-transformers refuses: an error there, not silently other embeddings.
        layers: whose states are read; "first_last" is the mean of the first and the last layer's.
        uses_pooler: whether the backbone's own dense layer and tanh come last.
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
    """Insist on a known pooling mode.

    Args:
        mode: its name.

    Raises:
        UserError: naming those that there are.
    """
    if mode not in POOLING_MODES:
        raise UserError(f"pooling_mode must be one of {', '.join(POOLING_MODES)}, got {mode!r}")
    return mode


def pool(states: Tensor, lengths: Tensor, reduction: Reduction) -> Tensor:
    """Reduce the tokens of each text to one vector.

    There is no padding to mask: a text's embedding depends on its own tokens alone.

    Args:
        states: (T, D) token states, text after text.
        lengths: (N,) tokens in each text, at least 1 each, summing to T.
        reduction: "mean" over a text's tokens, elementwise "max", its first ("cls") or its "last" token.

    Returns:
        (N, D) embeddings, float32 or float64.

    Raises:
        ValueError: if the reduction is unknown.
    """
    if states.dtype in (torch.float16, torch.bfloat16):
        states = states.float()  # a half-precision sum over a long text would lose digits
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
