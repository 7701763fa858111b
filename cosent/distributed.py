"""Communication between the processes of a job, its ranks; a single process is rank 0 of 1.

Shapes: R ranks, K texts per example, B examples on this rank, D dimensions.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cosent.errors import UserError

_Item = TypeVar("_Item")

# CPU groups by the group of all ranks; weak, because a group kept after its end would crash the process
_cpu_groups: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

# The fastest rank waits for the slowest, and all wait while the first works alone. A rank that dies closes the
# connection.
PATIENCE = timedelta(days=30)

_ROWS_AT_ONCE = 65_536  # bounds the copies made for sending


def rank() -> int:
    """Return this process's rank, from 0."""
    return distributed.get_rank() if _is_distributed() else 0


def num_ranks() -> int:
    """Return R, the number of processes in the job."""
    return distributed.get_world_size() if _is_distributed() else 1


def on_first_rank(action: Callable[[], _Item]) -> _Item:
    """Run an action on rank 0 and share its result; all ranks must call this.

    Args:
        action: the action; its result must be picklable.

    Returns:
        The result, on every rank.

    Raises:
        UserError: on every rank, if the action raises it on rank 0.
        OSError: likewise.
    """
    if num_ranks() == 1:
        return action()
    shared: list[Any] = [None]
    if rank() == 0:
        try:
            shared = [action()]
        except (UserError, OSError) as error:
            shared = [error]
    distributed.broadcast_object_list(shared, group=_cpu_group())
    if isinstance(shared[0], UserError | OSError):
        raise shared[0]
    return shared[0]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Run a block on rank 0 first, so that the other ranks find its results in a cache."""
    if rank() > 0:
        gather_numbers(0)
    try:
        yield
    finally:
        if rank() == 0:
            gather_numbers(0)


def gather_numbers(*numbers: int) -> list[list[int]]:
    """Gather integers from all ranks without waiting for accelerators.

    Args:
        numbers: this rank's integers, equally many on every rank.

    Returns:
        R lists, one per rank.
    """
    if num_ranks() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers)
    everybodys = [torch.empty_like(mine) for _ in range(num_ranks())]
    distributed.all_gather(everybodys, mine, group=_cpu_group())
    return [theirs.tolist() for theirs in everybodys]


def gather_batch(
    embeddings: Tensor, labels: Tensor | None, text_ids: Tensor, *, shapes: list[list[int]], no_text: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Concatenate the batches of all ranks, in rank order, into the batch of a single process.

    Gradients flow back only into this rank's embeddings, times R: every rank computes the same loss, so the mean over
    ranks that data-parallel training takes of the weights' gradients is the gradient of that loss.

    Args:
        embeddings: (K, B, D); K and B may differ between ranks, and B may be 0.
        labels: (B,) labels; None on all ranks or on none.
        text_ids: (K, B) text ids.
        shapes: K and B of each of the R ranks, from `gather_numbers`.
        no_text: the id of empty places, for examples with fewer texts than others.

    Returns:
        Embeddings (largest K, sum of B, D), labels (sum of B,) or None, and text ids (largest K, sum of B).
    """
    if num_ranks() == 1:
        return embeddings, labels, text_ids
    most_columns, most_examples = (max(sizes) for sizes in zip(*shapes, strict=True))
    columns, examples = most_columns - embeddings.shape[0], most_examples - embeddings.shape[1]

    sizes = [size for _, size in shapes]
    padded = F.pad(embeddings, (0, 0, 0, examples, 0, columns))
    ids = F.pad(text_ids, (0, examples, 0, columns), value=no_text)
    return (
        _together(_GatherWithGradient.apply(padded), sizes, dim=1),
        _together(_gather(F.pad(labels, (0, examples))), sizes, dim=0) if labels is not None else None,
        _together(_gather(ids), sizes, dim=1),
    )


def sum_on_first_rank(rows: Tensor) -> Tensor:
    """Sum the tables of all ranks on rank 0.

    Args:
        rows: (n, D) on the CPU, of the same shape on all ranks; overwritten.

    Returns:
        (n, D) the sum on rank 0, undefined on other ranks.
    """
    if num_ranks() > 1:
        for block in rows.split(_ROWS_AT_ONCE):
            distributed.reduce(block, 0, group=_cpu_group())
    return rows


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _cpu_group() -> Any:
    """Return the ranks' group for CPU tensors, with a long timeout; all ranks create it together on first use."""
    world: Any = distributed.group.WORLD
    if world not in _cpu_groups:
        _cpu_groups[world] = weakref.ref(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _cpu_groups[world]()


def _gather(x: Tensor) -> Tensor:
    """Gather (...) of the same shape on all ranks into (R, ...)."""
    gathered = x.new_empty(num_ranks(), *x.shape)
    distributed.all_gather(list(gathered.unbind()), x.contiguous())
    return gathered


def _together(gathered: Tensor, sizes: list[int], *, dim: int) -> Tensor:
    """Concatenate the ranks' parts (R, ...) without their padding."""
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(gathered, sizes, strict=True)], dim)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad[rank()] * num_ranks()
