"""What the processes of one job, its ranks, tell each other. A process on its own is rank 0 of 1.

Shapes: R ranks, K texts an example, B examples of this rank, D dimensions.
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

# by the group of all ranks; a group that is held on to after its end would take the process with it
_cpu_groups: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

# The fastest rank waits for the slowest, and all for what the first does alone. One that is gone ends the connection.
PATIENCE = timedelta(days=30)

_ROWS_AT_ONCE = 65_536  # bounds the copies that are made for travelling


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if _is_distributed() else 0


def num_ranks() -> int:
    """R, how many processes the job has."""
    return distributed.get_world_size() if _is_distributed() else 1


def on_first_rank(action: Callable[[], _Item]) -> _Item:
    """Let rank 0 do something, for which all ranks have to come here.

    Args:
        action: what to do; its result must be one that pickles.

    Returns:
        Its result, on every rank.

    Raises:
        UserError: on every rank, where it did on rank 0.
    """
    if num_ranks() == 1:
        return action()
    shared: list[Any] = [None]
    if rank() == 0:
        try:
            shared = [action()]
        except UserError as error:
            shared = [error]
    distributed.broadcast_object_list(shared, group=_cpu_group())
    if isinstance(shared[0], UserError):
        raise shared[0]
    return shared[0]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let rank 0 through before the others, who then find what it has put into a cache."""
    if rank() > 0:
        gather_numbers(0)
    try:
        yield
    finally:
        if rank() == 0:
            gather_numbers(0)


def gather_numbers(*numbers: int) -> list[list[int]]:
    """Tell all ranks some integers, without waiting for what accelerators are doing.

    Args:
        numbers: as many on every rank.

    Returns:
        R lists of them, by rank.
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
    """Put the ranks' batches together, rank after rank, as one process would have had them.

    Gradients flow back into this rank's embeddings alone, times R: every rank computes the same loss, and the mean
    over ranks, which data-parallel training takes of their weights' gradients, then is the gradient of that loss.

    Args:
        embeddings: (K, B, D), of any K and B on each rank, none included.
        labels: (B,) or None, the same on all ranks.
        text_ids: (K, B).
        shapes: R times K and B, from `gather_numbers`.
        no_text: the id of places without a text, where an example has fewer texts than others.

    Returns:
        Embeddings (most K, sum of B, D), labels (sum of B,) or None, and text ids (most K, sum of B).
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
    """Add up a table of every rank.

    Args:
        rows: (n, D) on the CPU, of one shape on all ranks; overwritten.

    Returns:
        (n, D) their sum on rank 0, anything on others.
    """
    if num_ranks() > 1:
        for block in rows.split(_ROWS_AT_ONCE):
            distributed.reduce(block, 0, group=_cpu_group())
    return rows


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _cpu_group() -> Any:
    """The ranks' patient connection for tensors on the CPU; made by all at once, where they first need it."""
    world: Any = distributed.group.WORLD
    if world not in _cpu_groups:
        _cpu_groups[world] = weakref.ref(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _cpu_groups[world]()


def _gather(x: Tensor) -> Tensor:
    """(R, ...) from (...), of one shape on all ranks."""
    gathered = x.new_empty(num_ranks(), *x.shape)
    distributed.all_gather(list(gathered.unbind()), x.contiguous())
    return gathered


def _together(gathered: Tensor, sizes: list[int], *, dim: int) -> Tensor:
    """The ranks' parts (R, ...), without what fills them up, one behind the other."""
    return torch.cat([part.narrow(dim, 0, size) for part, size in zip(gathered, sizes, strict=True)], dim)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad[rank()] * num_ranks()
