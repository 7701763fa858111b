"""What every attention kernel is told: where the texts of a flat batch stand, and who sees whom within one."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TextBounds:
    """Where the texts of a flat batch begin and end, N texts with T tokens.

    Attributes:
        lengths: (N,) int64 tokens in each text.
        offsets: (N+1,) int32, where each text begins, and T.
        max_length: tokens in the longest text, or more.
    """

    lengths: Tensor
    offsets: Tensor
    max_length: int


@dataclass(frozen=True)
class Options:
    """How tokens attend to the tokens of their text.

    Attributes:
        scale: factor of the products before the softmax.
        dropout: rate of dropout of the attention's weights.
        causal: whether a token sees only itself and what stands before it.
        window: a token sees others that are fewer than this many places away. None: all.
    """

    scale: float
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None
