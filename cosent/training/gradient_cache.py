"""Gradient caching for batches larger than memory: embeds a batch and backpropagates its gradient piece by piece.

Only the last piece keeps its activations. The loss and its gradient at the embeddings are computed from all pieces. The
last piece backpropagates its part of the gradient directly; each other piece is first embedded again, with the same
random numbers. Loss and gradient are those of the whole batch. The cost is one more forward pass, except over the last
piece, and memory for one piece and the loss.

Shapes: N texts in the batch with T tokens, n texts in a piece with t tokens, D dimensions.

Reference: Gao, Zhang, Han and Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    2021, section 3.2.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cosent.kernels.dropout import random_state, set_random_state
from cosent.kernels.packing import sort_by_length


class Piece(NamedTuple):
    """Texts that are embedded together: tokens (t,), lengths (n,), the largest length, and places in the batch.

    Texts beyond the places are padding, and their embeddings are dropped.
    """

    input_ids: Tensor
    lengths: Tensor
    max_length: int
    places: Tensor | slice

    @property
    def num_kept(self) -> int:
        """The number of embeddings that have a place."""
        return self.places.stop if isinstance(self.places, slice) else len(self.places)


# The largest share of a piece that may be padding.
_MAX_PADDING = 1 / 32

Embed = Callable[[Tensor, Tensor, int], Tensor]  # tokens, lengths, largest length -> (n, D)


def cut(
    input_ids: Tensor,
    lengths: Tensor,
    max_tokens: int,
    *,
    pad: bool = False,
    host_lengths: NDArray[np.integer] | None = None,
) -> list[Piece]:
    """Cut a flat batch into pieces of similarly long texts, with token counts as even as possible.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.
        max_tokens: maximum number of tokens in a piece; a longer text is a piece of its own.
        pad: whether to add a short text of padding to a piece if that makes it as large as the largest piece. Memory
            that one piece frees then fits the next exactly. Only useful for a backbone that runs on flat tokens.
        host_lengths: the lengths on the CPU, if known: reading them from a GPU waits for its work to finish.

    Returns:
        The pieces; a text's place is its index in the batch.
    """
    input_ids, lengths, new_places = sort_by_length(input_ids, lengths)
    counts: list[int] = lengths.tolist() if host_lengths is None else np.sort(host_lengths)[::-1].tolist()
    sizes = _even(counts, max_tokens)
    firsts = [0, *accumulate(sizes)]
    tokens = [sum(counts[start:end]) for start, end in pairwise(firsts)]
    longest = [counts[first] for first in firsts[:-1]]
    places = new_places.argsort().split(sizes)
    cuts = zip(input_ids.split(tokens), lengths.split(sizes), longest, places, strict=True)
    pieces = [Piece(*piece) for piece in cuts]
    largest = min(max(tokens, default=0), max_tokens)
    return [_pad_to(piece, largest) for piece in pieces] if pad else pieces


def _pad_to(piece: Piece, num_tokens: int) -> Piece:
    """Pad a piece to `num_tokens` with one text, if that text is a small share of them and not the longest text."""
    missing = num_tokens - len(piece.input_ids)
    if not 0 < missing <= min(piece.max_length, num_tokens * _MAX_PADDING):
        return piece
    return piece._replace(
        input_ids=F.pad(piece.input_ids, (0, missing)), lengths=F.pad(piece.lengths, (0, 1), value=missing)
    )


def _even(counts: Sequence[int], max_tokens: int) -> list[int]:
    """Count the texts of each piece, for as few pieces as possible, with the largest piece as small as possible."""
    if not counts:
        return []
    num_pieces = len(_fill(counts, max_tokens))
    low, high = min(-(-sum(counts) // num_pieces), max_tokens), max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_fill(counts, middle)) <= num_pieces:
            high = middle
        else:
            low = middle + 1
    return _fill(counts, low)


def _fill(counts: Sequence[int], max_tokens: int) -> list[int]:
    """Count the texts of each piece when pieces are filled one after the other."""
    sizes: list[int] = []
    tokens = 0
    for count in counts:
        if not sizes or tokens + count > max_tokens:
            sizes.append(0)
            tokens = 0
        sizes[-1] += 1
        tokens += count
    return sizes


def whole(input_ids: Tensor, lengths: Tensor, max_length: int) -> Piece:
    """Make one piece of a flat batch.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.
        max_length: the largest length.
    """
    return Piece(input_ids, lengths, max_length, slice(len(lengths)))


def filler(like: Tensor) -> Piece:
    """Make a piece of one token for a rank with fewer pieces than others: all ranks must run the model equally often.

    Args:
        like: token ids that determine the type and the device.

    Returns:
        A piece without a place, whose embedding is dropped.
    """
    return Piece(like.new_zeros(1), like.new_ones(1), 1, slice(0))


def embed_pieces(
    embed: Embed,
    pieces: Sequence[Piece],
    *,
    trainable: bool = True,
    without_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Embed pieces so that the backward pass holds the activations of one piece at a time.

    Args:
        embed: computes the (n, D) embeddings of a piece; called twice per piece, except the last, with the same random
            state.
        pieces: the pieces to embed.
        trainable: whether `embed` has trainable weights.
        without_sync: a context without gradient exchange between ranks; used for all pieces except the one whose
            backward pass comes last.

    Returns:
        (N, D) embeddings, each in its place. Their gradient can be computed once.
    """
    if len(pieces) == 1:
        embeddings, places = _embed(embed, pieces[0]), pieces[0].places
        return embeddings if isinstance(places, slice) else embeddings[places.argsort()]
    # tells autograd that the result needs a gradient although no input tensor does
    anchor = torch.empty(0, requires_grad=trainable and torch.is_grad_enabled())
    return _Cached.apply(anchor, embed, pieces, without_sync)


class _Cached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor: Tensor, embed: Embed, pieces: Sequence[Piece], without_sync: Callable) -> Tensor:
        device = pieces[0].input_ids.device
        ctx.embed, ctx.pieces, ctx.without_sync = embed, pieces, without_sync
        ctx.autocast = {
            "device_type": device.type,
            "enabled": torch.is_autocast_enabled(device.type),
            "dtype": torch.get_autocast_dtype(device.type),
        }
        ctx.random_states = []
        out = torch.empty(0)
        for number, piece in enumerate(pieces, start=1):
            ctx.random_states.append(random_state(device))
            if number == len(pieces):
                # the weights that torch has cast so far have no gradient; delete once torch with pytorch#165068 is
                # required
                torch.clear_autocast_cache()
                with torch.set_grad_enabled(ctx.needs_input_grad[0]), without_sync():
                    embeddings = ctx.last_embeddings = _embed(embed, piece)
            else:
                embeddings = _embed(embed, piece)
            if number == 1:
                out = embeddings.new_empty(sum(piece.num_kept for piece in pieces), embeddings.shape[1])
            out[piece.places] = embeddings.detach()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, ...]:
        device = grad.device
        after = random_state(device)
        *others, (last, _) = zip(ctx.pieces, ctx.random_states, strict=True)
        with ctx.without_sync():
            ctx.last_embeddings.backward(grad[last.places])
            ctx.last_embeddings = None  # a live graph would tie the recordings below to this stream
        for number, (piece, state) in enumerate(others, start=1):
            with nullcontext() if number == len(others) else ctx.without_sync():
                set_random_state(state, device)
                with torch.enable_grad(), torch.autocast(**ctx.autocast):
                    embeddings = _embed(ctx.embed, piece)
                embeddings.backward(grad[piece.places])
                del embeddings  # as above
        set_random_state(after, device)
        return None, None, None, None


def _embed(embed: Embed, piece: Piece) -> Tensor:
    return embed(piece.input_ids, piece.lengths, piece.max_length)[: piece.num_kept]
