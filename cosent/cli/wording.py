"""The words of messages: the library names parameters, `max_length=64`, and a command its flags, `--max_length 64`."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from cosent.errors import UserError

_flags: set[str] = set()  # of the command that runs


def speak_of(flags: Iterable[str]) -> None:
    """Say which flags there are, by name: from now on messages speak of them."""
    _flags.clear()
    _flags.update(flags)


def as_flags(message: str, flags: Iterable[str] | None = None) -> str:
    """Write parameters that are flags as flags: `name=value` of any, and names alone of those that have a "_".

    Args:
        message: of the library.
        flags: their names. None: those of the command that runs.
    """
    names = sorted(_flags if flags is None else flags, key=len, reverse=True)
    if not names:
        return message
    free = r"(?<![\w./'\"=-])"  # no part of a path, a quotation or a flag
    given = re.compile(rf"{free}({'|'.join(names)})=(?:'([^']*)'|([\w.+-]*\w))")
    message = given.sub(lambda found: f"--{found[1]} {found[2] or found[3]}", message)
    alone = [name for name in names if "_" in name]
    return re.sub(rf"{free}({'|'.join(alone)})(?![\w/'\"=]|\.\w)", r"--\1", message) if alone else message


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors in a block name other parameters: where eval data is read, `eval_text_columns` for `text_columns`."""
    try:
        yield
    except UserError as error:
        pattern = re.compile(rf"\b({'|'.join(names)})\b")
        raise type(error)(pattern.sub(lambda found: names[found[1]], str(error))) from error


class FlagFormatter(logging.Formatter):
    """Formats what the package logs in the words of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return as_flags(text) if record.name.startswith("cosent") else text
