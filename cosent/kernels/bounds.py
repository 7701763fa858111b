"""The inputs that all attention kernels share: the bounds of texts in a flat batch, and the attention options."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TextBounds:
    """The bounds of N texts with T tokens in a flat batch.

    Attributes:
        lengths: (N,) int64, number of tokens in each text.
        offsets: (N+1,) int32, the start of each text, and T.
        max_length: number of tokens in the longest text, or more.
    """

    lengths: Tensor
    offsets: Tensor
    max_length: int


@dataclass(frozen=True)
class Options:
    """The attention options.

    Attributes:
        scale: factor on the products before the softmax.
        dropout: dropout rate of the attention weights.
        causal: whether a token sees only itself and earlier tokens.
        window: a token sees tokens fewer than this many places away. None: all.
    """

    scale: float
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None
