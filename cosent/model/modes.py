"""Keeps an encoder in one mode while it embeds, even if several threads use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Protocol
from weakref import WeakKeyDictionary


class _HasMode(Protocol):
    training: bool

    def train(self, mode: bool = True) -> object: ...


_changed = Condition()  # guards the table
# How many threads embed with an encoder, whether with dropout, and its mode before them.
_at_work: "WeakKeyDictionary[_HasMode, tuple[int, bool, bool]]" = WeakKeyDictionary()


@contextmanager
def mode_change(encoder: _HasMode, mode: bool) -> Iterator[bool]:
    """Keep other threads from embedding with an encoder while its mode changes.

    Args:
        encoder: the encoder.
        mode: whether dropout shall be on.

    Yields:
        Whether the mode may change now. If the encoder embeds, it takes the mode when the last thread is done.
    """
    with _changed:
        embeds = encoder in _at_work
        if embeds:
            number, dropout, _ = _at_work[encoder]
            _at_work[encoder] = number, dropout, mode
        yield not embeds


@contextmanager
def embedding_mode(encoder: _HasMode, *, dropout: bool = False) -> Iterator[None]:
    """Turn an encoder's dropout off, and restore its mode when the last thread that embeds with it is done.

    Args:
        encoder: the encoder.
        dropout: turn dropout on instead, after waiting until no other thread embeds.
    """
    with _changed:
        _changed.wait_for(lambda: encoder not in _at_work or not dropout and not _at_work[encoder][1])
        number, _, before = _at_work.get(encoder, (0, dropout, encoder.training))
        if encoder not in _at_work:
            encoder.train(dropout)
        _at_work[encoder] = number + 1, dropout, before
    try:
        yield
    finally:
        with _changed:
            number, _, before = _at_work[encoder]
            if number > 1:
                _at_work[encoder] = number - 1, dropout, before
            else:
                del _at_work[encoder]
                encoder.train(before)
                _changed.notify_all()
