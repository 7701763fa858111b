"""Reads the rows of tables, in files or in memory: only the requested columns, and without other libraries' errors."""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cosent.data.lines import is_gzipped, open_bytes, readable, too_long
from cosent.data.shown import clipped, shown, shown_names
from cosent.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from datasets import Dataset

# The names of a table's columns -> those to read; raises ValueError if they lack the required columns.
ChooseColumns = Callable[[list[str]], Collection[str]]

# The number of a row, from 1, and its values by name, or what is wrong with it.
TableRow = tuple[int, dict[str, Any] | str]

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


def table_rows(path: Path, max_text_bytes: int, choose: ChooseColumns | None) -> Iterator[TableRow]:
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

    with readable(path), _seekable(path) as file, _sound(str(path)):
        table = parquet.ParquetFile(file)
        yield from _arrow_rows(
            str(path),
            table.schema_arrow,
            lambda names: table.iter_batches(_ROWS_AT_A_TIME, columns=names),
            max_text_bytes,
            choose,
        )


def dataset_rows(
    dataset: "Dataset", name: str, max_text_bytes: int, choose: ChooseColumns | None
) -> Iterator[TableRow]:
    """Yield the rows of a dataset of the `datasets` library, as `table_rows` does.

    Args:
        dataset: the dataset.
        name: its name in messages.
        max_text_bytes: maximum number of bytes in a text.
        choose: picks the columns to read. None: all.
    """
    if not len(dataset):
        return

    def batches(names: list[str]) -> Iterator["pyarrow.Table"]:
        if not names:  # rows without a single value that can be read
            return iter([dataset.data.table.select([]).slice(0, len(dataset))])
        return dataset.select_columns(names).with_format("arrow").iter(_ROWS_AT_A_TIME)

    with _sound(name):
        yield from _arrow_rows(name, dataset.features.arrow_schema, batches, max_text_bytes, choose)


def frame_rows(
    frame: "pandas.DataFrame", name: str, max_text_bytes: int, choose: ChooseColumns | None
) -> Iterator[tuple[int, list[Any] | dict[str, Any] | str]]:
    """Yield the rows of a DataFrame, as `table_rows` does; columns numbered from 0 have no names.

    Args:
        frame: the table; its index is ignored.
        name: its name in messages.
        max_text_bytes: maximum number of bytes in a text.
        choose: picks the columns to read. None: all.
    """
    names = [str(column) for column in frame.columns]
    is_named = list(frame.columns) != list(range(len(names)))
    places = list(range(len(names)))
    if is_named:
        chosen = _choose(name, names, choose)
        places = [names.index(column) for column in chosen]
    blank = dict.fromkeys(names)
    for start in range(0, len(frame), _ROWS_AT_A_TIME):
        block = frame.iloc[start : start + _ROWS_AT_A_TIME]
        columns = [_column_values(block.iloc[:, place], max_text_bytes) for place in places]
        for number, values in enumerate(zip(*columns, strict=True), start=start + 1):
            if any(isinstance(value, _TooLong) for value in values):
                yield number, too_long(max_text_bytes)
            elif is_named:
                yield number, blank | {names[place]: value for place, value in zip(places, values, strict=True)}
            else:
                yield number, list(values)


def python_rows(
    rows: Iterable[Any], name: str, max_text_bytes: int, choose: ChooseColumns | None
) -> Iterator[tuple[int, list[Any] | dict[str, Any] | str]]:
    """Yield the rows of an iterable of tuples, lists or dicts.

    Args:
        rows: the rows.
        name: their name in messages.
        max_text_bytes: maximum number of bytes in a text.
        choose: not used, as rows may have different keys.

    Raises:
        TypeError: if a row is of another type.
    """
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            named = {str(key): _checked(to_plain(value), max_text_bytes) for key, value in row.items()}
            values: Iterable[Any] = named.values()
        elif isinstance(row, (tuple, list)):
            values = [_checked(to_plain(value), max_text_bytes) for value in row]
        else:
            hint = "; a file is named by one path, or a list of paths" if isinstance(row, str) else ""
            raise TypeError(f"{name}: row {number} is {shown(row)}; a row is a tuple or a dict{hint}")
        if any(isinstance(value, _TooLong) for value in values):
            yield number, too_long(max_text_bytes)
        else:
            yield number, named if isinstance(row, Mapping) else list(values)


def _arrow_rows(
    name: str,
    schema: "pyarrow.Schema",
    batches: Callable[[list[str]], Iterable["pyarrow.RecordBatch | pyarrow.Table"]],
    max_text_bytes: int,
    choose: ChooseColumns | None,
) -> Iterator[TableRow]:
    """Yield the rows of an Arrow table, of which only the chosen columns with usable types are read."""
    names = schema.names
    chosen = _choose(name, names, choose)
    kinds = {column: schema.field(column).type for column in chosen}
    read = [column for column in chosen if _is_plain(kinds[column])]
    blank = dict.fromkeys(names) | {column: NoText(f"of type {clipped(str(kinds[column]))}") for column in chosen}
    number = 0
    for batch in batches(read):
        columns = [_values(batch.column(column), max_text_bytes) for column in read]
        for values in zip(*columns, strict=True) if columns else [()] * len(batch):
            number += 1
            long = next((value for value in values if isinstance(value, _TooLong)), None)
            yield number, blank | dict(zip(read, values, strict=True)) if long is None else too_long(max_text_bytes)


def to_plain(value: Any) -> Any:
    """Convert a value of numpy or pandas to one of Python: a number, a list, or None for a missing one.

    Args:
        value: any value.
    """
    if value is None or isinstance(value, (str, int, float, list)):
        return value
    if isinstance(value, tuple):
        return list(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _column_values(column: "pandas.Series", max_text_bytes: int) -> list[Any]:
    """Convert a DataFrame's column to values of Python, with None for missing ones."""
    missing = column.isna().tolist()
    values = zip(column.tolist(), missing, strict=True)
    return [None if is_missing else _checked(to_plain(value), max_text_bytes) for value, is_missing in values]


class _TooLong:
    """Stands for a text that exceeds the limit."""


@contextmanager
def _sound(name: str) -> Iterator[None]:
    """Turn pyarrow's errors into data errors."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, OverflowError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is damaged: {clipped(str(error)) or type(error).__name__}") from error


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


def _choose(name: str, names: Sequence[str], choose: ChooseColumns | None) -> list[str]:
    """Choose the columns to read, in the table's order."""
    try:
        wanted = set(names if choose is None else choose(list(names)))
    except ValueError as error:
        raise DataError(f"{name} {error}") from error
    chosen = [column for column in names if column in wanted]
    twice = {column for column in chosen if chosen.count(column) > 1} if len(chosen) > len(wanted) else set()
    if twice:
        raise DataError(f"{name} has several columns {shown_names(sorted(twice))}; write it with names that differ")
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
