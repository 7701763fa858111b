"""Rewrites messages: the library names parameters, `max_length=64`, and a command its flags, `--max_length 64`."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from shlex import quote

from cosent.errors import UserError

_flags: set[str] = set()  # flags of the running command
_aliases: dict[str, str] = {}  # the names in messages of files that only this program knows


def speak_of(flags: Iterable[str]) -> None:
    """Set the names of the flags that messages refer to from now on."""
    _flags.clear()
    _flags.update(flags)


def as_flags(message: str, flags: Iterable[str] | None = None) -> str:
    """Rewrite parameters as flags: any `name=value`, and bare names that contain a "_".

    Args:
        message: a message of the library.
        flags: names of the flags. None: those of the running command.
    """
    names = sorted(_flags if flags is None else flags, key=len, reverse=True)
    if not names:
        return message
    free = r"(?<![\w./'\"=-])"  # not part of a path, a quotation or a flag
    given = re.compile(rf"{free}({'|'.join(names)})=(?:'([^']*)'|\"([^\"]*)\"|([\w.+-]*\w))")
    message = given.sub(lambda found: f"--{found[1]} {quote(found[2] or found[3] or found[4] or '')}", message)
    alone = [name for name in names if "_" in name]
    return re.sub(rf"{free}({'|'.join(alone)})(?![\w/'\"=]|\.\w)", r"--\1", message) if alone else message


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Rename parameters in the errors of a block: for eval data, `text_columns` becomes `eval_text_columns`."""
    try:
        yield
    except UserError as error:
        pattern = re.compile(rf"\b({'|'.join(names)})\b")
        raise type(error)(pattern.sub(lambda found: names[found[1]], str(error))) from error


@contextmanager
def alias(path: str, name: str) -> Iterator[None]:
    """Call a file by another name in the log messages and errors of a block.

    Args:
        path: the path of the file.
        name: its name in messages.
    """
    _aliases[path] = name
    try:
        yield
    except UserError as error:
        raise type(error)(str(error).replace(path, name)) from error
    finally:
        del _aliases[path]


class FlagFormatter(logging.Formatter):
    """Formats the package's log messages with flags instead of parameters."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for path, name in _aliases.items():
            text = text.replace(path, name)
        return as_flags(text) if record.name.startswith("cosent") else text
