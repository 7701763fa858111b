"""Attention by torch's public function over padded texts: slower than the fused kernels, and right on any CUDA device.

Shapes: N texts, T tokens of all texts one after the other, L tokens in the longest text or more, H heads, D dimensions
of a head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosent.kernels.bounds import Options, TextBounds


def padded(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Pad every text to L tokens, attend, and take the padding out again; the device is never waited for.

    Args:
        query: (T, H, D); so are `key` and `value`.
        key: see `query`.
        value: see `query`.
        bounds: where the texts begin and end.
        options: scale, dropout, and which tokens a token sees.

    Returns:
        (T, H, D).
    """
    lengths, length = bounds.lengths, bounds.max_length
    text = torch.repeat_interleave(lengths, output_size=len(query))  # (T,)
    place = torch.arange(len(query), device=query.device) - bounds.offsets[text]  # (T,) within its text
    rows = text * length + place  # (T,) of N * L

    def pad(x: Tensor) -> Tensor:
        empty = x.new_zeros(len(lengths) * length, *x.shape[1:])
        return empty.index_copy(0, rows, x).view(len(lengths), length, *x.shape[1:]).transpose(1, 2)

    q, k, v = (pad(x) for x in (query, key, value))  # (N, H, L, D)
    seen = _seen(lengths, length, options)
    out = F.scaled_dot_product_attention(q, k, v, seen, options.dropout, scale=options.scale)
    return out.transpose(1, 2).reshape(-1, *query.shape[1:]).index_select(0, rows)


def _seen(lengths: Tensor, length: int, options: Options) -> Tensor:
    """(N, 1, L, L) booleans: which keys a query sees. Padding sees itself: of nothing, a softmax would be NaN."""
    places = torch.arange(length, device=lengths.device)
    ahead = places - places[:, None]  # (L, L) how far a key stands behind the query in the text
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if options.window is not None:
        seen &= ahead.abs() < options.window
    if options.causal:
        seen &= ahead <= 0
    return ((places < lengths[:, None])[:, None, None] & seen) | (ahead == 0)
