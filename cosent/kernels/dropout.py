"""Dropout with cheap random numbers on CPUs.

There, `torch.nn.functional.dropout` draws one float per element on one thread, which takes a sixth of a training step
in bfloat16. Here, four elements share a draw of 64 bits, 16 for each.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def keep_mask(x: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Make the mask that dropout multiplies elements by.

    Args:
        x: a tensor of any shape, on the CPU or, with a CPU generator, on any device; its dtype is the result's.
        rate: share of elements to drop, in steps of 2**-16, above 0 and below 1.
        generator: a CPU generator. None: torch's default generator.

    Returns:
        A tensor like x: 0 for dropped elements, otherwise one over the share that is kept.
    """
    dropped = min(round(rate * 2**16), 2**16 - 1)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = bits.view(torch.int16)[: x.numel()] >= dropped - 2**15
    return kept.view(x.shape).to(x).mul_(2**16 / (2**16 - dropped))


class Dropout(nn.Dropout):
    """torch's dropout, except on CPUs, where it uses `keep_mask`; code from torch.compile draws its own numbers."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training mode.

        Args:
            input: a tensor of any shape.

        Returns:
            A tensor of the same shape.
        """
        fast = input.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.training and 0 < self.p < 1 and fast:
            return _Mask.apply(input, self.p)
        return F.dropout(input, self.p, self.training)


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, rate: float) -> Tensor:
        mask = keep_mask(x, rate)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def use_fast_dropout(module: nn.Module) -> None:
    """Replace every torch.nn.Dropout within a module by `Dropout`.

    Args:
        module: changed in place; its weights and their names stay unchanged.
    """
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))


def random_state(device: torch.device) -> list[Any]:
    """Return the random states that dropout draws from: the CPU's, which also gives seeds, and the device's.

    Args:
        device: the model's device.

    Returns:
        States for `set_random_state`.
    """
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(*_of(device))]


def set_random_state(states: list[Any], device: torch.device) -> None:
    """Restore random states, so that the same numbers are drawn again.

    Args:
        states: states from `random_state`, for the same device.
        device: the model's device.
    """
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_of(device))


def _of(device: torch.device) -> list[torch.device]:
    return [] if device.type == "mps" else [device]  # there is only one MPS device
