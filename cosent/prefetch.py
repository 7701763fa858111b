"""Prepares the next item in a thread while the current one is in use."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Iterate in a separate thread, one item ahead of the consumer.

    Args:
        items: the items, each made while the previous one is in use; at most two are alive.

    Yields:
        The same items in order; an error in making an item is raised in its place.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        ahead = thread.submit(next, iterator, _END)
        while (item := ahead.result()) is not _END:
            ahead = thread.submit(next, iterator, _END)
            yield item  # type: ignore[misc]  # mypy does not know that _END is not a T
