"""Attention within the texts of a flat batch, without padding.

`KERNELS` is the table of attention kernels; the first one that supports a call computes it.

Shapes: T tokens of all texts, concatenated, H heads, D dimensions per head.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cosent.kernels import fused
from cosent.kernels.bounds import Options, TextBounds
from cosent.kernels.by_length import by_length
from cosent.kernels.padded import padded

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Kernel:
    """An attention kernel and the calls that it supports.

    Attributes:
        attend: computes attention; arguments and result are those of `attention`.
        device: the device type it runs on. None: any.
        is_there: whether it is installed.
        dtypes: supported types of queries. None: any.
        capability: the least CUDA compute capability.
        max_head_dim: the largest D, which must also be a multiple of 8. None: any D.
        dropout: whether it supports dropout.
        windows: whether it supports windows.
        grouped: whether a key head may serve several query heads; otherwise keys and values are repeated first.
        traceable: whether torch.compile can trace it.
    """

    attend: Callable[[Tensor, Tensor, Tensor, TextBounds, Options], Tensor]
    device: str | None = None
    is_there: bool = True
    dtypes: tuple[torch.dtype, ...] | None = None
    capability: tuple[int, int] = (0, 0)
    max_head_dim: int | None = None
    dropout: bool = True
    windows: bool = True
    grouped: bool = False
    traceable: bool = True


# From the fastest to the one that supports everything. All of them support causal attention.
KERNELS: dict[str, Kernel] = {
    "flash-attn": Kernel(
        fused.flash_attn, "cuda", fused.HAS_FLASH_ATTN, _HALF, capability=(8, 0), max_head_dim=256, grouped=True
    ),
    "flash": Kernel(fused.flash, "cuda", fused.HAS_FLASH, _HALF, capability=(8, 0), max_head_dim=256, grouped=True),
    # With text bounds, the two passes of torch's kernel draw different dropout: the forward pass uses 0 as the number
    # of keys in its random offset, the backward pass does not. torch also traces its gradient wrongly: the fake kernel
    # of the backward pass takes one argument too few.
    "memory-efficient": Kernel(
        fused.memory_efficient,
        "cuda",
        fused.HAS_MEMORY_EFFICIENT,
        (torch.float32, *_HALF),
        max_head_dim=256,
        dropout=False,
        windows=False,
        traceable=False,
    ),
    "padded": Kernel(padded, "cuda"),
    "by length": Kernel(by_length),
}


def attention(query: Tensor, key: Tensor, value: Tensor, bounds: TextBounds, options: Options) -> Tensor:
    """Compute scaled dot-product attention within each text.

    Args:
        query: (T, H, D) queries.
        key: (T, H, D) keys, or H / g heads that serve g query heads each.
        value: values, of the shape of the keys.
        bounds: where the texts begin and end.
        options: scale, dropout, and which tokens a token sees.

    Returns:
        (T, H, D) in the dtype of the query, or of autocast.
    """
    kind = query.device.type
    if options.window is not None and options.window >= bounds.max_length:
        options = replace(options, window=None)
    if torch.is_autocast_enabled(kind):  # rotary positions may have produced float32
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    kernel = KERNELS[choose(query, options)]
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not kernel.grouped:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return kernel.attend(query, key, value, bounds, options)


def choose(query: Tensor, options: Options) -> str:
    """Choose the kernel for a call.

    Args:
        query: (T, H, D) queries; their device, dtype and D matter.
        options: the options; dropout and the window matter.

    Returns:
        The name of the first row of `KERNELS` that supports the call; the last row supports all.
    """
    device, dim = query.device, query.shape[-1]
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    return next(
        name
        for name, kernel in KERNELS.items()
        if kernel.is_there
        and kernel.device in (None, device.type)
        and (kernel.dtypes is None or query.dtype in kernel.dtypes)
        and kernel.capability <= capability
        and (kernel.max_head_dim is None or (dim <= kernel.max_head_dim and dim % 8 == 0))
        and (kernel.dropout or not options.dropout)
        and (kernel.windows or options.window is None)
        and (kernel.traceable or not torch.compiler.is_compiling())
    )


def wants_sorted(device: torch.device) -> bool:
    """Tell whether attention is faster if texts are sorted by length, the longest first.

    Args:
        device: the device of the tokens.
    """
    return all(kernel.device != device.type for kernel in KERNELS.values())
