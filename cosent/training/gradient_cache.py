"""Batches larger than memory: embeddings of a whole batch whose gradient is computed piece by piece.

The batch is embedded in pieces without keeping what a backward pass needs. The loss is computed from the embeddings,
and its gradient arrives at them. Then each piece is embedded again, with the same random numbers, and its part of that
gradient goes on into the weights. This costs one more forward pass, and memory for one piece alone; loss and gradient
are those of the whole batch.

Shapes: N texts, n texts of a piece, T and t their tokens, D dimensions.

Reference: Gao, Zhang, Han and Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    2021, section 3.2.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosent.packing import sort_by_length


class Piece(NamedTuple):
    """Texts that are embedded together: tokens (t,), lengths (n,), and the longest of these."""

    input_ids: Tensor
    lengths: Tensor
    max_length: int


Embed = Callable[[Tensor, Tensor, int], Tensor]  # a piece's fields -> (n, D)


def cut(input_ids: Tensor, lengths: Tensor, max_tokens: int) -> tuple[list[Piece], Tensor]:
    """Cut a flat batch into pieces of texts of similar length.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.
        max_tokens: tokens in a piece at most; a longer text is one on its own.

    Returns:
        The pieces, and (N,) where each text of the batch is among the texts of all pieces.
    """
    input_ids, lengths, places = sort_by_length(input_ids, lengths)
    sizes: list[int] = []  # texts, tokens and the longest text of each piece
    tokens: list[int] = []
    longest: list[int] = []
    for count in lengths.tolist():
        if not sizes or tokens[-1] + count > max_tokens:
            sizes.append(0)
            tokens.append(0)
            longest.append(count)
        sizes[-1] += 1
        tokens[-1] += count
    pieces = zip(input_ids.split(tokens), lengths.split(sizes), longest, strict=True)
    return [Piece(*piece) for piece in pieces], places


def filler(like: Tensor) -> Piece:
    """A piece of one token, for a rank that has fewer pieces than others: all of them have to run the model alike.

    Args:
        like: token ids, whose type and device it takes.
    """
    return Piece(like.new_zeros(1), like.new_ones(1), 1)


def embed_pieces(
    embed: Embed,
    pieces: Sequence[Piece],
    *,
    trainable: bool = True,
    without_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> Tensor:
    """Embed pieces such that the backward pass holds the activations of one at a time.

    Args:
        embed: gives the (n, D) embeddings of a piece; called twice for each, with the same random state.
        pieces: what to embed.
        trainable: whether `embed` has anything that a gradient could reach.
        without_sync: a context in which gradients are not yet shared between ranks; all pieces but the last run their
            backward pass within one.

    Returns:
        (N, D) embeddings, piece after piece. Their gradient can be asked for once.
    """
    if len(pieces) == 1:
        return embed(*pieces[0])
    # nothing else would tell autograd that the weights depend on what is computed here
    anchor = torch.empty(0, requires_grad=trainable)
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
        embeddings = []
        for piece in pieces:
            ctx.random_states.append(_random_state(device))
            embeddings.append(embed(*piece))
        return torch.cat(embeddings)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, ...]:
        device = grad.device
        grads = grad.split([len(piece.lengths) for piece in ctx.pieces])
        after = _random_state(device)
        torch.clear_autocast_cache()  # weights that the first pass has cast know of no gradient
        for number, (piece, state) in enumerate(zip(ctx.pieces, ctx.random_states, strict=True)):
            is_last = number == len(ctx.pieces) - 1
            with nullcontext() if is_last else ctx.without_sync():
                _set_random_state(state, device)
                with torch.enable_grad(), torch.autocast(**ctx.autocast):
                    embeddings = ctx.embed(*piece)
                embeddings.backward(grads[number])
        _set_random_state(after, device)
        return None, None, None, None


def _random_state(device: torch.device) -> list[Any]:
    """What random numbers are drawn from: on the CPU, by dropout's seeds, too, and on the device."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def _set_random_state(states: list[Any], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)
