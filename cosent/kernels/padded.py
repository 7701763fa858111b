"""Attention over padded texts by torch's public function: slower than fused kernels, but works on any CUDA device.

Shapes: N texts, T tokens of all texts, concatenated, L tokens in the longest text or more, H heads, D dimensions per
head.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosent.kernels.bounds import Options, TextBounds


def padded(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Pad every text to L tokens, attend, and remove the padding, without waiting for the device.

    Args:
        query: (T, H, D) queries.
        key: (T, H, D) keys.
        value: (T, H, D) values.
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
    """Make a (N, 1, L, L) mask of the keys that a query sees; padding sees itself, as an empty softmax would be NaN."""
    places = torch.arange(length, device=lengths.device)
    ahead = places - places[:, None]  # (L, L) position of the key minus that of the query
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if options.window is not None:
        seen &= ahead.abs() < options.window
    if options.causal:
        seen &= ahead <= 0
    return ((places < lengths[:, None])[:, None, None] & seen) | (ahead == 0)
