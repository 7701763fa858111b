"""Attention by a loop over queries, which the kernels are held against, and its inputs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosent.kernels.bounds import Options, TextBounds

LENGTHS = [7, 7, 1, 4, 4, 4, 1, 30]


def bounds_of(lengths: list[int], device: str = "cpu", max_length: int | None = None) -> TextBounds:
    counts = torch.tensor(lengths, device=device)
    return TextBounds(counts, F.pad(counts.cumsum(0), (1, 0)).int(), max_length or max(lengths))


def naive(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    """One query at a time, without dropout."""
    out = torch.zeros_like(query)
    start = 0
    for length in LENGTHS:
        for i in range(length):
            seen = [
                start + j
                for j in range(length)
                if not (options.causal and j > i) and not (options.window is not None and abs(i - j) >= options.window)
            ]
            for head in range(query.shape[1]):
                source = head * key.shape[1] // query.shape[1]
                weights = (key[seen, source] @ query[start + i, head] * options.scale).softmax(0)
                out[start + i, head] = weights @ value[seen, source]
        start += length
    return out


def inputs(heads: int = 4, key_heads: int = 4, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Query, key and value, (T, H, 8)."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(sum(LENGTHS), h, 8, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()
        for h in (heads, key_heads, key_heads)
    ]


def gradients(out: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Of a weighted sum of the result."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((out * weights.to(out.device, out.dtype)).sum(), tensors)
