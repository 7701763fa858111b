"""Writing files."""

import errno
import json
import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from cosent.errors import UserError

# How libraries report errors of the system: safetensors and pyarrow with its number, torch without.
_NUMBERED = re.compile(r"os error (\d+)|errno (\d+)", re.IGNORECASE)
_TORCH_WRITER = re.compile(r"inline_container|PytorchStreamWriter|iostream error")
_TORCH_READER = "PytorchStreamReader"

_PROBE_SIZE = 1 << 20  # bytes
_BLOCK = 1 << 20  # bytes read at a time


def to_json(content: Any, *, indent: int | None = None) -> str:
    """Format data as JSON; numbers that are not finite, which JSON lacks, become null.

    Args:
        content: dicts, lists and tuples of texts, numbers, booleans and None.
        indent: spaces per level. None: all on one line.
    """
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Write data to a file as JSON.

    Args:
        path: the file.
        content: data that `to_json` can format.
    """
    with replacing(path) as part:
        part.write_text(to_json(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name and rename it when it is complete; readers find the old file or the new one.

    Args:
        path: the file.

    Yields:
        The path to write to.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with writing(path):
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return a file's size in bytes and its CRC-32, such as "90868376 1f0a3c5e".

    Args:
        path: the file.
    """
    size, code = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            code = zlib.crc32(block, code)
    return f"{size} {code:08x}"


def flush_folder(folder: Path) -> None:
    """Wait until all files in a folder and below are on the disk.

    Args:
        folder: the folder.

    Raises:
        OSError: if the disk fails.
    """
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            flush(path)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk.

    Args:
        path: the file or folder.

    Raises:
        OSError: if the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this kind of file system cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of the system into an OSError that names a path, even if a library hides them in another error.

    Args:
        path: the file or folder that is written in this context.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = system_error(error)
        if found is None or found.filename:
            raise
        number = found.errno if isinstance(error, OSError) else _probed(path) or found.errno
        assert number is not None  # as it was found
        raise OSError(number, os.strerror(number), str(path)) from error


def system_error(error: BaseException) -> OSError | None:
    """Find the error of the system that caused an error of a library.

    Args:
        error: any error.

    Returns:
        The error with its number; None if there is no such cause.
    """
    if isinstance(error, OSError) and error.errno:
        return error
    text = str(error)
    number = None
    if found := _NUMBERED.search(text):
        number = int(found[1] or found[2])
    elif isinstance(error, RuntimeError) and _TORCH_WRITER.search(text) and _TORCH_READER not in text:
        number = errno.ENOSPC  # torch does not say which; this is the usual one
    if number is not None:
        return OSError(number, os.strerror(number))
    return None if error.__cause__ is None else system_error(error.__cause__)


def check_folder(path: str | Path) -> None:
    """Refuse a folder that cannot be created or written to, before its content is computed.

    Args:
        path: the folder; it is not created.

    Raises:
        OSError: the error that writing to it would raise.
    """
    place = Path(path)
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if place.is_symlink() and not place.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        # folders such as /proc report that the new file does not exist
        number = errno.EACCES if error.errno == errno.ENOENT else error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(place)) from error


def check_file(path: str | Path) -> None:
    """Refuse a file that cannot be written, before its content is computed.

    Args:
        path: the file; it is not created.

    Raises:
        OSError: the error that writing to it would raise.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_folder(Path(path).parent)


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold a lock file that only one process can hold; it is removed afterwards, and free if the process is killed.

    Args:
        path: the lock file.
        message: the error message if another process holds it.

    Raises:
        UserError: if another process holds it.
    """
    file = _hold(path, message)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        _held.discard(file)
        file.close()


_held: set[BinaryIO] = set()


def _hold(path: Path, message: str) -> BinaryIO:
    import fcntl

    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                raise UserError(message) from error
        with suppress(FileNotFoundError):  # raised if another process has just released and removed it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    _let_go_in_children()
    _held.add(file)
    return file


@cache
def _let_go_in_children() -> None:
    """Close lock files in child processes, which would otherwise hold them after the parent's end."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


def _probed(path: str | Path) -> int | None:
    """Find the number of the system's error by writing to a folder, or beside a file."""
    place = Path(path)
    try:
        with tempfile.TemporaryFile(dir=place if place.is_dir() else place.parent) as file:
            file.write(bytes(_PROBE_SIZE))
    except OSError as error:
        return error.errno
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
