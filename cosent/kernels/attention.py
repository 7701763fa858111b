"""Attention within texts, on flat tokens: no text sees another, and no token is padding.

`KERNELS` is a table of all ways to compute it; the first row that takes a call does it.

Shapes: T tokens of all texts one after the other, H heads, D dimensions of a head.
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
    """A way to compute attention, and the calls that it takes.

    Attributes:
        attend: computes it; arguments and result are those of `attention`.
        device: type of device that it runs on. None: any.
        is_there: whether what is installed has it.
        dtypes: of queries. None: any.
        capability: the CUDA compute capability that it needs at least.
        max_head_dim: D at most, and a multiple of 8. None: any number.
        dropout: whether it knows dropout.
        windows: whether it knows windows.
        grouped: whether a head of keys may serve several of queries; otherwise keys and values are repeated before.
        traceable: whether torch.compile can look through it.
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


# From the fastest to the one that takes everything. All of them know causal attention.
KERNELS: dict[str, Kernel] = {
    "flash-attn": Kernel(
        fused.flash_attn, "cuda", fused.HAS_FLASH_ATTN, _HALF, capability=(8, 0), max_head_dim=256, grouped=True
    ),
    "flash": Kernel(fused.flash, "cuda", fused.HAS_FLASH, _HALF, capability=(8, 0), max_head_dim=256, grouped=True),
    # Where texts have bounds, the two passes of torch's kernel draw different dropout: the forward pass takes the
    # number of keys for 0 in its random offset, the backward pass does not. torch traces its gradient wrongly, too:
    # the fake kernel of its backward pass takes one argument too few.
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
    """Scaled dot-product attention of each text's tokens over the same text's tokens.

    Args:
        query: (T, H, D).
        key: (T, H, D), or with H / g heads that serve g query heads each.
        value: as key.
        bounds: where the texts begin and end.
        options: scale, dropout, and which tokens a token sees.

    Returns:
        (T, H, D) in the dtype of the query, or the one of autocast.
    """
    kind = query.device.type
    if options.window is not None and options.window >= bounds.max_length:
        options = replace(options, window=None)
    if torch.is_autocast_enabled(kind):  # rotary positions may have given float32
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    kernel = KERNELS[choose(query, options)]
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not kernel.grouped:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return kernel.attend(query, key, value, bounds, options)


def choose(query: Tensor, options: Options) -> str:
    """Choose the kernel for a call.

    Args:
        query: (T, H, D), of which device, dtype and D count.
        options: of which count whether there is dropout, and whether tokens see only a part of a text.

    Returns:
        The name of the first row of `KERNELS` that takes it; the last one takes everything.
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
    """Tell whether attention is faster where texts of equal length are neighbours, the longest first.

    Args:
        device: where the tokens are.
    """
    return all(kernel.device != device.type for kernel in KERNELS.values())
