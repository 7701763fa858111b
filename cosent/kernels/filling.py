"""Fills flat batches up to one of a few sizes with texts of padding, whose embeddings are dropped.

Shapes: N texts and T tokens in a batch; M texts and S tokens in the filled batch.
"""

from typing import NamedTuple

from torch import Tensor

# Share of a token budget that a batch's own tokens may take; the rest is for filling up.
ROOM = 15 / 16


class Size(NamedTuple):
    """The size of a filled batch: S tokens, M texts, and the largest length allowed."""

    num_tokens: int
    num_texts: int
    max_length: int


def size_for(num_tokens: int, num_texts: int, max_length: int) -> Size:
    """Choose the size that a batch is filled up to.

    The number of tokens grows in steps of 1/16 to 1/32, the number of texts in steps of 1/4 to 1/8. With a thousand
    tokens or more, in texts of ten or more on average, at least nine in ten tokens are real, and mostly 24 in 25.

    Args:
        num_tokens: T.
        num_texts: N.
        max_length: number of tokens in the longest text.

    Returns:
        The smallest size with room for the batch in which texts of padding have at least one token and are no longer
        than the batch's longest text.
    """
    texts = _step_up(num_texts + 1, parts=4, least=16)
    while True:
        fillers = texts - num_texts
        tokens = _step_up(num_tokens + fillers, parts=16, least=64)
        if tokens - num_tokens <= fillers * max_length:
            return Size(tokens, texts, max(128, 1 << (max_length - 1).bit_length()))
        texts = _step_up(texts + 1, parts=4, least=16)


def _step_up(count: int, *, parts: int, least: int) -> int:
    """Round up to one of `parts` evenly spaced numbers per power of two, at least `least` apart."""
    step = max(least, (1 << (count - 1).bit_length()) // (2 * parts))
    return -(-count // step) * step


def fill(into: tuple[Tensor, Tensor], input_ids: Tensor, lengths: Tensor) -> None:
    """Write a batch and its texts of padding, all of about the same length.

    Args:
        into: (S,) tokens and (M,) lengths to overwrite; M > N and S - T >= M - N.
        input_ids: (T,) tokens.
        lengths: (N,) number of tokens in each text.
    """
    tokens, counts = into
    shortest, longer = divmod(len(tokens) - len(input_ids), len(counts) - len(lengths))
    tokens[: len(input_ids)].copy_(input_ids)
    tokens[len(input_ids) :].zero_()
    counts[: len(lengths)].copy_(lengths)
    counts[len(lengths) :].fill_(shortest)
    counts[len(lengths) : len(lengths) + longer].add_(1)
