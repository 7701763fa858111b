"""Shortens values and names for messages."""

import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

_SHOWN_NAMES = 6
_SHOWN_CHARACTERS = 360

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel = 2
_short.maxdict = _short.maxlist = 4
_shorter = reprlib.Repr()
_shorter.maxstring = _shorter.maxother = 36


def shown(value: Any) -> str:
    """Return the `repr` of a value, shortened if it is long or deeply nested.

    Args:
        value: a value of any type that files hold.

    Returns:
        At most about a hundred characters for a text or a number, a few hundred for a list or a dict.
    """
    return _short.repr(value)


def shown_names(names: Iterable[Any]) -> str:
    """List names of columns, separated by commas; if there are many, the first few and the number of the others.

    Args:
        names: names or positions of the columns.
    """
    names = iter(names)
    first = [str(name) if isinstance(name, int) else _shorter.repr(name) for name in islice(names, _SHOWN_NAMES)]
    more = sum(1 for _ in names)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def clipped(message: str) -> str:
    """Shorten a message of another library to one line.

    Args:
        message: a message of any length.
    """
    line = " ".join(message[: 4 * _SHOWN_CHARACTERS].split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."
