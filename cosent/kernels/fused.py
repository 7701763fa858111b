"""Fused CUDA attention kernels over concatenated texts of different lengths, without padding.

torch has two: flash attention, with dropout, and memory-efficient attention. No public function of torch suits:
`torch.nn.attention.varlen.varlen_attn` takes no dropout rate (https://github.com/pytorch/pytorch/pull/179390), and with
nested tensors the host takes ten times as long as the kernels. This module therefore calls the private operators
beneath, with the signatures of torch 2.8 to 2.13, and checks on import that the installed torch still has them. If not,
`HAS_FLASH` or `HAS_MEMORY_EFFICIENT` is False, and `cosent.kernels.attention` chooses another kernel. Delete these
calls once a public function has dropout.

Run on a GPU so far: flash attention, by a sketch of this call, with torch 2.11 on an H200.

Shapes: N texts, T tokens of all texts, concatenated, H heads, D dimensions per head.
"""

import torch
from torch import Tensor
from torch._C import parse_schema

from cosent.kernels.bounds import Options, TextBounds

try:
    from flash_attn import flash_attn_varlen_func
except ImportError:
    flash_attn_varlen_func = None

_FLASH = (
    "aten::_flash_attention_forward(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, "
    "SymInt max_q, SymInt max_k, float dropout_p, bool is_causal, bool return_debug_mask, *, float? scale=None, "
    "SymInt? window_size_left=None, SymInt? window_size_right=None, Tensor? seqused_k=None, Tensor? alibi_slopes=None)"
    " -> (Tensor output, Tensor softmax_logsumexp, Tensor rng_state, Tensor unused, Tensor debug_attn_mask)"
)
_MEMORY_EFFICIENT = (
    "aten::_efficient_attention_forward(Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? cu_seqlens_q, "
    "Tensor? cu_seqlens_k, SymInt? max_seqlen_q, SymInt? max_seqlen_k, float dropout_p, int custom_mask_type, "
    "bool compute_log_sumexp=False, *, float? scale=None, Tensor? seqlen_k=None, int? window_size=None)"
    " -> (Tensor output, Tensor logsumexp, Tensor philox_seed, Tensor philox_offset, SymInt max_seqlen_batch_q, "
    "SymInt max_seqlen_batch_k)"
)
_NO_MASK, _CAUSAL = 0, 1  # the memory-efficient operator's mask types


def _is_as_known(operator: str, schema: str) -> bool:
    """Tell whether torch has an operator compatible with this schema."""
    known = getattr(torch.ops.aten, operator, None)
    return known is not None and known.default._schema.is_backward_compatible_with(parse_schema(schema))


HAS_FLASH_ATTN = flash_attn_varlen_func is not None
HAS_FLASH = _is_as_known("_flash_attention_forward", _FLASH)
HAS_MEMORY_EFFICIENT = _is_as_known("_efficient_attention_forward", _MEMORY_EFFICIENT)


def flash_attn(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Compute flash attention with the package flash-attn, which draws dropout from torch's generator.

    Args:
        query: (T, H, D) queries in half precision, D a multiple of 8.
        key: (T, H / g, D) keys in half precision, for some g >= 1.
        value: (T, H / g, D) values in half precision.
        bounds: where the texts begin and end.
        options: scale, dropout, and which tokens a token sees.

    Returns:
        (T, H, D).
    """
    ends = (bounds.offsets, bounds.offsets, bounds.max_length, bounds.max_length)
    return flash_attn_varlen_func(
        query, key, value, *ends, dropout_p=options.dropout, softmax_scale=options.scale, causal=options.causal,
        window_size=_sides(options),
    )  # fmt: skip


def flash(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Compute flash attention with torch; arguments and result are those of `flash_attn`."""
    ends = (bounds.offsets, bounds.offsets, bounds.max_length, bounds.max_length)
    left, right = _sides(options)
    # causal attention has its own mask; a causal window is a window without places to the right
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *ends, options.dropout, options.causal and options.window is None, False,
        scale=options.scale, window_size_left=left, window_size_right=right,
    )[0]  # fmt: skip


def memory_efficient(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Compute memory-efficient attention with torch.

    Arguments and result are those of `flash_attn`, except that float32 is also accepted, keys have as many heads as
    queries, and there are neither windows nor dropout.
    """
    assert options.window is None and not options.dropout
    longest = min(bounds.max_length, len(query))  # the backward pass refuses more than the number of tokens
    ends = (bounds.offsets, bounds.offsets, longest, longest)
    keeps_sums = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    mask = _CAUSAL if options.causal else _NO_MASK
    return torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, *ends, 0.0, mask, keeps_sums, scale=options.scale
    )[0][0]


def _sides(options: Options) -> tuple[int, int]:
    """Return how many places a token sees to the left and to the right; -1: all."""
    left = -1 if options.window is None else options.window - 1
    return left, 0 if options.causal else left
