"""The attention kernel for CPUs, which computes texts of equal length together.

It computes product, softmax and product in float32. torch's fused attention is no faster on CPUs for texts as short as
sentences, several times slower in bfloat16 with gradients, and has no dropout.

Shapes: N texts, n texts of one length, T tokens of all texts, concatenated, L tokens in a text, H heads, D dimensions
per head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from cosent.kernels.bounds import Options, TextBounds
from cosent.kernels.dropout import keep_mask

# The most scores in a block, to fit into the processor's cache; one head of a long text may have more.
_MAX_SCORES = 1 << 18


def by_length(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Compute attention, for neighbouring texts of equal length together.

    Args:
        query: (T, H, D) queries.
        key: (T, H, D) keys.
        value: (T, H, D) values.
        bounds: where the texts begin and end; neighbouring texts should often have equal lengths.
        options: scale, dropout, and which tokens a token sees.

    Returns:
        (T, H, D).
    """
    # like torch's kernels, keep only a seed, from which the backward pass draws the dropped weights again
    seed = torch.randint(2**62, (), dtype=torch.int64) if options.dropout else torch.zeros((), dtype=torch.int64)
    choices = (options.scale, options.dropout, options.causal, options.window or 0)
    return _by_length(query, key, value, bounds.lengths, seed, *choices)


@torch.library.custom_op("cosent::attention_by_length", mutates_args=())
def _by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
    causal: bool,
    window: int,
) -> Tensor:
    """Compute attention as one operator, so that torch.compile need not trace it.

    Args:
        query: (T, H, D) queries.
        key: (T, H, D) keys.
        value: (T, H, D) values.
        lengths: (N,) number of tokens in each text; neighbouring texts should often have equal lengths.
        seed: () int64, seed of the dropout.
        scale: factor on the products before the softmax.
        dropout: dropout rate.
        causal: whether a token sees only itself and earlier tokens.
        window: a token sees tokens fewer than this many places away; 0: all.

    Returns:
        (T, H, D).
    """
    runs = _runs(lengths, query.shape[1])
    places = _head_rows(runs, query)
    q, k, v = (_gather(x, places) for x in (query, key, value))
    q *= scale
    out = torch.empty_like(q)
    generator = _generator(seed)
    with torch.autocast(query.device.type, enabled=False):  # float32 is intended here
        for block in _blocks(runs):
            flat, weights = _weights(q, k, block, causal, window)
            if dropout:
                flat *= keep_mask(flat, dropout, generator)
            for run, weight in zip(block, weights, strict=True):
                torch.bmm(weight, run.of(v), out=run.of(out))
    return _scatter(out, places, query)


@_by_length.register_fake
def _(query, key, value, lengths, seed, scale, dropout, causal, window):
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("cosent::attention_by_length_backward", mutates_args=())
def _by_length_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    seed: Tensor,
    scale: float,
    dropout: float,
    causal: bool,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of `_by_length`; the weights are recomputed, so that nothing of size L x L is kept.

    Args:
        grad: (T, H, D) gradient of the result.
        query: (T, H, D) queries.
        key: (T, H, D) keys.
        value: (T, H, D) values.
        lengths: (N,) number of tokens in each text.
        seed: seed of the dropout.
        scale: factor on the products.
        dropout: dropout rate.
        causal: whether attention is causal.
        window: size of the window; 0: none.

    Returns:
        (T, H, D) each, the gradients of query, key and value.
    """
    runs = _runs(lengths, query.shape[1])
    places = _head_rows(runs, query)
    g, q, k, v = (_gather(x, places) for x in (grad, query, key, value))
    q *= scale
    grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
    generator = _generator(seed)
    with torch.autocast(query.device.type, enabled=False):
        for block in _blocks(runs):
            flat, weights = _weights(q, k, block, causal, window)
            flat_grad, grads = _score_buffer(q, block)
            for run, grad_weight in zip(block, grads, strict=True):
                torch.bmm(run.of(g), run.of(v).transpose(1, 2), out=grad_weight)
            kept = weights
            if dropout:
                mask = keep_mask(flat, dropout, generator)
                flat_grad *= mask
                kept = _views(mask.mul_(flat), block)
            for run, weight, kept_weight, grad_weight in zip(block, weights, kept, grads, strict=True):
                torch.bmm(kept_weight.transpose(1, 2), run.of(g), out=run.of(grad_v))
                grad_score = torch.ops.aten._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
                torch.bmm(grad_score, run.of(k), out=run.of(grad_q))
                torch.bmm(grad_score.transpose(1, 2), run.of(q), out=run.of(grad_k))
    grad_q *= scale
    return _scatter(grad_q, places, query), _scatter(grad_k, places, key), _scatter(grad_v, places, value)


@_by_length_backward.register_fake
def _(grad, query, key, value, lengths, seed, scale, dropout, causal, window):
    contiguous = torch.contiguous_format
    return tuple(torch.empty_like(x, memory_format=contiguous) for x in (query, key, value))


def _save_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _backward(ctx, grad):
    return *_by_length_backward(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None, None, None


_by_length.register_autograd(_backward, setup_context=_save_for_backward)


@dataclass(frozen=True)
class _Run:
    """Neighbouring texts of equal length, or part of them: rows of (T*H, D) from `start` on, viewed as (n*H, L, D)."""

    start: int
    count: int
    length: int

    def of(self, x: Tensor) -> Tensor:
        return x[self.start : self.start + self.count * self.length].view(self.count, self.length, -1)


def _runs(lengths: Tensor, heads: int) -> list[_Run]:
    """Group neighbouring texts of equal length."""
    runs, start = [], 0
    for length, same in groupby(lengths.tolist()):
        count = len(list(same)) * heads
        runs.append(_Run(start, count, length))
        start += count * length
    return runs


def _blocks(runs: list[_Run]) -> Iterator[list[_Run]]:
    """Cut runs into blocks whose scores are in memory at the same time."""
    block: list[_Run] = []
    room = _MAX_SCORES
    for run in runs:
        start, left, scores = run.start, run.count, run.length**2
        while left:
            if block and room < scores:
                yield block
                block, room = [], _MAX_SCORES
            count = min(left, max(1, room // scores))
            block.append(_Run(start, count, run.length))
            room -= count * scores
            start += count * run.length
            left -= count
    yield block


def _head_rows(runs: list[_Run], like: Tensor) -> Tensor:
    """Compute the (T*H,) indices that reorder rows (T*H, D) into runs (n, H, L, D), concatenated."""
    heads = like.shape[1]
    rows = np.arange(len(like) * heads)
    places = [
        rows[run.start : run.start + run.count * run.length].reshape(-1, run.length, heads).swapaxes(1, 2).ravel()
        for run in runs
    ]
    return torch.from_numpy(np.concatenate(places)).to(like.device)


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """Reorder (T, H, D) into (T*H, D), run by run, in float32 or float64."""
    rows = x.reshape(len(places), -1).index_select(0, places)
    return rows if rows.dtype == torch.float64 else rows.float()


def _scatter(rows: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Undo `_gather`, and convert to the original dtype."""
    out = torch.empty(rows.shape, dtype=like.dtype, device=like.device)
    return out.index_copy_(0, places, rows.to(like.dtype)).view(like.shape)


def _generator(seed: Tensor) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed))


def _score_buffer(like: Tensor, block: list[_Run]) -> tuple[Tensor, list[Tensor]]:
    """Allocate the scores of a block, with (n*H, L, L) views for its runs."""
    flat = like.new_empty(sum(run.count * run.length**2 for run in block))
    return flat, _views(flat, block)


def _views(flat: Tensor, block: list[_Run]) -> list[Tensor]:
    parts = flat.split([run.count * run.length**2 for run in block])
    return [part.view(run.count, run.length, run.length) for part, run in zip(parts, block, strict=True)]


def _weights(query: Tensor, key: Tensor, block: list[_Run], causal: bool, window: int) -> tuple[Tensor, list[Tensor]]:
    """Compute the softmax of the products, as one buffer and as (n*H, L, L) views of each run."""
    flat, weights = _score_buffer(query, block)
    for run, weight in zip(block, weights, strict=True):
        scores = torch.bmm(run.of(query), run.of(key).transpose(1, 2))
        if causal or 0 < window < run.length:
            scores.masked_fill_(_hidden(run.length, causal, window, query.device), -torch.inf)
        torch.softmax(scores, dim=-1, out=weight)
    return flat, weights


def _hidden(length: int, causal: bool, window: int, device: torch.device) -> Tensor:
    """Make an (L, L) mask of the keys that a query does not see."""
    places = torch.arange(length, device=device)
    ahead = places - places[:, None]  # position of the key minus that of the query
    outside = ahead.abs() >= window if window else torch.zeros_like(ahead, dtype=torch.bool)
    return outside | (ahead > 0) if causal else outside
