"""Batches larger than memory: embeddings of a whole batch whose gradient is computed piece by piece.

All pieces but the last are embedded without keeping what a backward pass needs. The loss is computed from the
embeddings of all, and its gradient arrives at them. It goes on into the weights from the last piece, which then is done
with; each of the others is embedded again for that, with the same random numbers. This costs one more forward pass,
less that of the last piece, and memory for one piece and the loss; loss and gradient are those of the whole batch.

Shapes: N texts, n texts of a piece, T and t their tokens, D dimensions.

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
    """Texts that are embedded together: tokens (t,), lengths (n,), the longest of these, and their places, if any.

    Texts beyond the places are padding; nothing is kept of them.
    """

    input_ids: Tensor
    lengths: Tensor
    max_length: int
    places: Tensor | slice

    @property
    def num_kept(self) -> int:
        """How many of its embeddings have a place."""
        return self.places.stop if isinstance(self.places, slice) else len(self.places)


# How much of a piece may be padding.
_MAX_PADDING = 1 / 32

Embed = Callable[[Tensor, Tensor, int], Tensor]  # tokens, lengths, the longest -> (n, D)


def cut(
    input_ids: Tensor,
    lengths: Tensor,
    max_tokens: int,
    *,
    pad: bool = False,
    host_lengths: NDArray[np.integer] | None = None,
) -> list[Piece]:
    """Cut a flat batch into pieces of texts of similar length, as even in tokens as texts allow.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.
        max_tokens: tokens in a piece at most; a longer text is one on its own.
        pad: add a short text of padding to pieces that it makes as large as the largest: memory that one of them frees
            then fits the next exactly. For a backbone that runs on flat tokens; another would pad the short text, too.
        host_lengths: the lengths on the CPU, where they are known: asking a GPU for them waits for what it is doing.

    Returns:
        The pieces; a text's place is its number in the batch.
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
    """Make it so many tokens by a text of padding, where that is a small part of them and not its longest text."""
    missing = num_tokens - len(piece.input_ids)
    if not 0 < missing <= min(piece.max_length, num_tokens * _MAX_PADDING):
        return piece
    return piece._replace(
        input_ids=F.pad(piece.input_ids, (0, missing)), lengths=F.pad(piece.lengths, (0, 1), value=missing)
    )


def _even(counts: Sequence[int], max_tokens: int) -> list[int]:
    """How many texts go into each of as few pieces as can be, of which the largest is as small as can be."""
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
    """How many texts of these token counts go into each piece, one piece filled after the other."""
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
    """A flat batch as one piece.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.
        max_length: of the lengths.
    """
    return Piece(input_ids, lengths, max_length, slice(len(lengths)))


def filler(like: Tensor) -> Piece:
    """A piece of one token, for a rank that has fewer pieces than others: all of them have to run the model alike.

    Args:
        like: token ids, whose type and device it takes.

    Returns:
        A piece without a place: nothing is kept of it.
    """
    return Piece(like.new_zeros(1), like.new_ones(1), 1, slice(0))


def embed_pieces(
    embed: Embed,
    pieces: Sequence[Piece],
    *,
    trainable: bool = True,
    without_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Embed pieces such that the backward pass holds the activations of one at a time.

    Args:
        embed: gives the (n, D) embeddings of a piece; called twice for each but the last, with the same random state.
        pieces: what to embed.
        trainable: whether `embed` has anything that a gradient could reach.
        without_sync: a context in which gradients are not yet shared between ranks; all pieces but the one whose
            backward pass comes last run within one.

    Returns:
        (N, D) embeddings, each in its place. Their gradient can be asked for once.
    """
    if len(pieces) == 1:
        embeddings, places = _embed(embed, pieces[0]), pieces[0].places
        return embeddings if isinstance(places, slice) else embeddings[places.argsort()]
    # nothing else would tell autograd that the weights depend on what is computed here
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
                # what torch has cast so far knows no gradient; delete when torch with pytorch#165068 is required
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
            ctx.last_embeddings = None  # a graph that lives on would tie what is recorded below to this stream
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
