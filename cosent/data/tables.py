"""Reads the rows of Parquet tables: only the requested columns, and without pyarrow's own errors."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cosent.data.lines import is_gzipped, open_bytes, readable, too_long
from cosent.data.shown import clipped, shown_names
from cosent.errors import DataError

if TYPE_CHECKING:
    import pyarrow

# The names of a table's columns -> those to read; raises ValueError if they lack the required columns.
ChooseColumns = Callable[[list[str]], Collection[str]]

# rows converted to Python objects at a time: pyarrow's default of 65,536 would take gigabytes with long texts
_ROWS_AT_A_TIME = 256
_NOT_UTF8 = "\udcff"  # stands for a text that is not UTF-8; no valid text holds a lone surrogate


class NoText:
    """Stands for a value that was not read because it is neither text nor number; its `repr` says what it is.

    Args:
        what: the end of the sentence "the first text is ...".
    """

    def __init__(self, what: str):
        self.what = what

    def __repr__(self) -> str:
        return self.what


def table_rows(
    path: Path, max_text_bytes: int, choose: ChooseColumns | None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the rows of a Parquet file.

    Args:
        path: the file, plain or gzipped.
        max_text_bytes: maximum number of bytes in a text.
        choose: picks the columns to read. None: all.

    Yields:
        The number of the row, from 1, and its values by name, None for those that are not read; or, if a text is too
        long, a message that says so.

    Raises:
        DataError: if the file is damaged or lacks columns.
    """
    from pyarrow import parquet

    with readable(path), _seekable(path) as file, _sound(path):
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        chosen = _choose(path, names, choose)
        kinds = {name: table.schema_arrow.field(name).type for name in chosen}
        read = [name for name in chosen if _is_plain(kinds[name])]
        blank = dict.fromkeys(names) | {name: NoText(f"of type {clipped(str(kinds[name]))}") for name in chosen}
        number = 0
        for batch in table.iter_batches(_ROWS_AT_A_TIME, columns=read):
            columns = [_values(batch.column(name), max_text_bytes) for name in read]
            for values in zip(*columns, strict=True) if columns else [()] * len(batch):
                number += 1
                long = next((value for value in values if isinstance(value, _TooLong)), None)
                yield number, blank | dict(zip(read, values, strict=True)) if long is None else too_long(max_text_bytes)


class _TooLong:
    """Stands for a text that exceeds the limit."""


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into data errors."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: {clipped(str(error)) or type(error).__name__}") from error


@contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; decompress it to disk if it is gzipped, because a table is read from its end."""
    with open_bytes(path) as file:
        if not is_gzipped(path):
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(file, unpacked)
            unpacked.seek(0)
            yield unpacked


def _choose(path: Path, names: Sequence[str], choose: ChooseColumns | None) -> list[str]:
    """Choose the columns to read, in the table's order."""
    try:
        wanted = set(names if choose is None else choose(list(names)))
    except ValueError as error:
        raise DataError(f"{path} {error}") from error
    chosen = [name for name in names if name in wanted]
    twice = {name for name in chosen if chosen.count(name) > 1} if len(chosen) > len(wanted) else set()
    if twice:
        raise DataError(f"{path} has several columns {shown_names(sorted(twice))}; write it with names that differ")
    return chosen


def _is_plain(kind: "pyarrow.DataType") -> bool:
    """Tell whether a type holds texts, numbers or lists of them; others cannot be used, and may be unreadable."""
    from pyarrow import types

    if isinstance(kind, types.lib.BaseExtensionType):
        return _is_plain(kind.storage_type)
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    others = (types.is_binary_view, types.is_fixed_size_binary, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in (*tests, *others, types.is_decimal, types.is_null))


def _values(column: "pyarrow.Array", max_text_bytes: int) -> list[Any]:
    """Convert a column's values to Python objects; bytes are text without a declared type."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
    short = max_text_bytes // 4  # a character has at most 4 bytes
    return [v if type(v) is str and len(v) <= short else _checked(v, max_text_bytes) for v in values]


def _value(scalar: "pyarrow.Scalar") -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return _NOT_UTF8


def _checked(value: Any, max_text_bytes: int) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, list):
        texts = [_checked(item, max_text_bytes) for item in value]
        return next((text for text in texts if isinstance(text, _TooLong)), texts)
    if isinstance(value, str) and len(value.encode("utf-8", errors="surrogatepass")) > max_text_bytes:
        return _TooLong()
    return value
