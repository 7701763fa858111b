"""Flat batches of one of a few sizes: a batch is filled up by texts of padding, whose embeddings nobody looks at.

Shapes: N texts and T tokens of a batch; M texts and S tokens of it when it is filled up.
"""

from typing import NamedTuple

from torch import Tensor

# Share of a budget of tokens for those of a batch; the rest fills it up to a size.
ROOM = 15 / 16


class Size(NamedTuple):
    """Of a batch that is filled up: S tokens, M texts, and no text longer than this."""

    num_tokens: int
    num_texts: int
    max_length: int


def size_for(num_tokens: int, num_texts: int, max_length: int) -> Size:
    """The size that a batch is filled up to.

    Tokens go in steps of a sixteenth to a thirty-second of themselves, texts in steps of a quarter to an eighth. Of a
    thousand tokens or more, in texts of ten or more on average, nine in ten are real at least, and mostly 24 in 25.

    Args:
        num_tokens: T.
        num_texts: N.
        max_length: tokens in the longest text.

    Returns:
        The smallest size with room for the batch whose texts of padding have a token at least, and are no longer than
        the batch's longest text.
    """
    texts = _step_up(num_texts + 1, parts=4, least=16)
    while True:
        fillers = texts - num_texts
        tokens = _step_up(num_tokens + fillers, parts=16, least=64)
        if tokens - num_tokens <= fillers * max_length:
            return Size(tokens, texts, max(128, 1 << (max_length - 1).bit_length()))
        texts = _step_up(texts + 1, parts=4, least=16)


def _step_up(count: int, *, parts: int, least: int) -> int:
    """Round up: from a power of two to the next there are so many numbers, not closer to each other than the least."""
    step = max(least, (1 << (count - 1).bit_length()) // (2 * parts))
    return -(-count // step) * step


def fill(into: tuple[Tensor, Tensor], input_ids: Tensor, lengths: Tensor) -> None:
    """Write a batch and its texts of padding, about as long as each other.

    Args:
        into: (S,) tokens and (M,) lengths, to be overwritten; M > N, and S - T >= M - N.
        input_ids: (T,) tokens.
        lengths: (N,) tokens in each text.
    """
    tokens, counts = into
    shortest, longer = divmod(len(tokens) - len(input_ids), len(counts) - len(lengths))
    tokens[: len(input_ids)].copy_(input_ids)
    tokens[len(input_ids) :].zero_()
    counts[: len(lengths)].copy_(lengths)
    counts[len(lengths) :].fill_(shortest)
    counts[len(lengths) : len(lengths) + longer].add_(1)
