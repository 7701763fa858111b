"""Preparing the next piece of work while the current one is done."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Iterate in a thread of its own, one item ahead of whoever takes them.

    Args:
        items: made while the one before is in use; at most two are alive.

    Yields:
        The same items in order; an error in making one comes where that item would have come.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = thread.submit(next, iterator, _END)
        while (item := ahead.result()) is not _END:
            ahead = thread.submit(next, iterator, _END)
            yield item  # type: ignore[misc]  # mypy does not know that _END is not a T
