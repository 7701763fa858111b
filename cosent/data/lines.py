"""Reads the bytes and lines of plain and gzipped files in bounded memory."""

import gzip
import io
import os
import shlex
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from cosent.data.shown import clipped
from cosent.errors import DataError

GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)

# Longer than any text that a sentence encoder can use. A longer line usually means a file without line breaks, or an
# unclosed quotation mark.
MAX_TEXT_BYTES = 2**20

UTF8_MARK = b"\xef\xbb\xbf"
_BLOCK = 2**16


def check_file(path: Path) -> None:
    """Refuse a path that is not a regular file, or cannot be opened.

    Args:
        path: the data file.

    Raises:
        DataError: if so; the message says what the path is.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder, not a data file")
    raise DataError(f"{path} is a pipe or a device. Data is read more than once: save it to a file first")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors in reading a file into data errors.

    Args:
        path: the file, for messages.

    Raises:
        DataError: if the file is damaged, has vanished, or cannot be read.
    """
    try:
        yield
    except GZIP_ERRORS as error:
        hint = "its compressed data is cut short or broken; copy or download it again"
        raise DataError(f"{path} is damaged: {clipped(str(error))} ({hint})") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist any more") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {clipped(error.strerror or str(error))}") from error


def is_gzipped(path: Path) -> bool:
    """Tell whether a file is gzipped, by its name.

    Args:
        path: the file.
    """
    return path.suffix.lower() == ".gz"


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file's bytes, decompressed if it is gzipped.

    Args:
        path: the file.
    """
    if not is_gzipped(path):
        return path.open("rb")
    return io.BufferedReader(gzip.open(path), _BLOCK)  # it finds lines in C


def head_of(path: Path) -> bytes:
    """Read a file's first 64 KiB, decompressed, or as much of them as possible.

    Args:
        path: the file.
    """
    head = b""
    try:
        with open_bytes(path) as file:
            while len(head) < _BLOCK and (block := file.read(min(_BLOCK - len(head), 4096))):
                head += block
    except GZIP_ERRORS:
        pass  # reading the whole file reports the damage
    return head


def too_long(max_text_bytes: int) -> str:
    """Make the message for a line or a text beyond the limit.

    Args:
        max_text_bytes: the limit.
    """
    return f"is longer than max_text_bytes={max_text_bytes}; raise it if this is a text and no damage"


def lines(path: Path, max_text_bytes: int) -> Iterator[tuple[int, bytes | str]]:
    r"""Yield lines without their ends. Only a line feed ends a line; `str.splitlines` would also cut within texts.

    Args:
        path: the file.
        max_text_bytes: maximum number of bytes in a line; of longer lines, only so many are ever in memory.

    Yields:
        The number of the line, from 1, and its bytes or, if it is too long, a message that says so.

    Raises:
        DataError: if lines end in carriage returns alone.
    """
    with open_bytes(path) as file:
        for number in count(1):
            line = file.readline(max_text_bytes + 2)  # room for \r\n
            if not line:
                return
            content = line.rstrip(b"\r\n")
            if number == 1:
                content = content.removeprefix(UTF8_MARK)
                if b"\r" in content and not line.endswith(b"\n"):
                    new = filtered(path, r"tr '\r' '\n'")
                    raise DataError(f"{path}: lines end in carriage returns alone; {new} makes them line feeds")
            if len(content) <= max_text_bytes and (len(line) < max_text_bytes + 2 or line.endswith(b"\n")):
                yield number, content
                continue
            if not line.endswith(b"\n"):
                _skip_line(file)
            yield number, too_long(max_text_bytes)


def filtered(path: Path, command: str, ending: str | None = None) -> str:
    """Make a shell command that converts a file and writes the result beside it.

    Args:
        path: the file, gzipped or not.
        command: a command that reads standard input and writes standard output.
        ending: ending of the new file. None: the old one.
    """
    name = path.name[: -len(path.suffix)] if is_gzipped(path) else path.name
    if ending is not None:
        name = name[: len(name) - len(Path(name).suffix)] + ending
    source, target = shlex.quote(str(path)), shlex.quote(str(path.with_name(f"new-{name}")))
    return f"`zcat {source} | {command} > {target}`" if is_gzipped(path) else f"`{command} < {source} > {target}`"


def _skip_line(file: IO[bytes]) -> None:
    while (block := file.readline(_BLOCK)) and not block.endswith(b"\n"):
        pass
