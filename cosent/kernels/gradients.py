"""The gradients of all weights in one tensor, so that clearing, measuring and scaling take one pass each."""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ALIGNED = 64  # alignment in elements, as optimizers read several at a time


class FlatGradients:
    """Memory for the gradients of weights, at a fixed address.

    Args:
        weights: the weights, all of one type and on one device.

    Raises:
        RuntimeError: if their types or devices differ.
    """

    def __init__(self, weights: Sequence[nn.Parameter]):
        kinds = {(weight.dtype, weight.device) for weight in weights}
        if len(kinds) > 1:
            raise RuntimeError("trainable weights are of several types or devices: " + ", ".join(map(str, kinds)))
        ((dtype, device),) = kinds
        self.weights = list(weights)
        sizes = [-(-weight.numel() // _ALIGNED) * _ALIGNED for weight in weights]
        self._flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
        parts = zip(self._flat.split(sizes), weights, strict=True)
        self._views = [part[: weight.numel()].view(weight.shape) for part, weight in parts]

    def attach(self) -> None:
        """Make this memory hold the weights' gradients; existing gradients are kept, missing ones become 0."""
        missing = [weight.grad is None for weight in self.weights]
        if all(missing):
            self._flat.zero_()
        for weight, view in zip(self.weights, self._views, strict=True):
            if weight.grad is view:
                continue
            if weight.grad is not None:
                view.copy_(weight.grad)
            elif not all(missing):
                view.zero_()
            weight.grad = view

    def add(self, grads: Sequence[Tensor]) -> None:
        """Add gradients.

        Args:
            grads: one for each weight.
        """
        torch._foreach_add_(self._views, list(grads))

    def are_of(self, weights: Sequence[nn.Parameter]) -> bool:
        """Tell whether these are the gradients of given weights, in the same order.

        Args:
            weights: any weights.
        """
        return len(weights) == len(self.weights) and all(map(operator.is_, weights, self.weights))

    def clip(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradients without waiting for the device.

        Args:
            max_norm: the largest norm, above 0.

        Returns:
            The norm before clipping, 0-dimensional.
        """
        norm = torch.linalg.vector_norm(self._flat)
        self._flat.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
