"""Reads the rows of TSV, CSV, JSON lines and Parquet files, plain or gzipped."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cosent.data.clues import csv_separator, refuse_foreign
from cosent.data.lines import MAX_TEXT_BYTES, check_file, lines, open_bytes, readable, too_long
from cosent.data.shown import clipped
from cosent.data.tables import ChooseColumns, table_rows
from cosent.errors import DataError

_Content = TypeVar("_Content", bytes | str, list[str] | str)

# A row's values by position or by name, or a message that says why the row is unreadable.
Row = list[Any] | dict[str, Any] | str
# A row with its line or row number, counted from 1.
PlacedRow = tuple[int, Row]


class FileType(NamedTuple):
    """A file type: the unit of its row numbers, and the function that reads its rows."""

    unit: str
    read: Callable[[Path, int, ChooseColumns | None], Iterator[PlacedRow]]


def open_rows(
    path: Path, *, max_text_bytes: int = MAX_TEXT_BYTES, choose: ChooseColumns | None = None
) -> tuple[str, Iterator[PlacedRow]]:
    """Open a data file.

    Args:
        path: .tsv, .txt and .data are tab-separated without quoting, .csv is comma-separated with quoting, .jsonl and
            .json hold one object per line, .parquet a table; .gz may follow. Text is UTF-8, with or without a BOM. A
            .csv file whose line 1 has no comma may be separated by tabs or semicolons.
        max_text_bytes: maximum number of bytes in a line, in a row of a .csv file, and in a text of a table; no more
            is ever in memory.
        choose: picks the columns of a table to read. None: all.

    Returns:
        The unit of the row numbers, "line" or "row", and the rows.

    Raises:
        DataError: if the file is missing, cannot be opened or is of an unknown or another type; during iteration, if it
            is damaged.
        ValueError: if max_text_bytes is below 1.
    """
    if max_text_bytes < 1:
        raise ValueError(f"max_text_bytes must be at least 1, got {max_text_bytes}")
    check_file(path)
    suffix = suffix_of(path)
    if suffix not in FILE_TYPES:
        hint = "; save the sheet as .csv (UTF-8)" if suffix in _SPREADSHEETS else ""
        raise DataError(f"{path} is of an unknown kind; known are {', '.join(FILE_TYPES)}, and each with .gz{hint}")
    with readable(path):
        refuse_foreign(path, suffix)
    unit, read = FILE_TYPES[suffix]
    return unit, _readable(path, read(path, max_text_bytes, choose))


def suffix_of(path: Path) -> str:
    """Return the ending that gives a file's type, in lower case.

    Args:
        path: the file; .gz is ignored.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next(iter(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]), "")


def _readable(path: Path, rows: Iterator[PlacedRow]) -> Iterator[PlacedRow]:
    with readable(path):
        yield from rows


def _without_blank_end(rows: Iterable[tuple[int, _Content]]) -> Iterator[tuple[int, _Content]]:
    """Skip blank lines at the end of a file; elsewhere they count as bad rows."""
    blank: list[tuple[int, _Content]] = []  # only the first and the latest, as there may be billions
    for row in rows:
        if not row[1]:
            blank[1:] = [row]
            continue
        if blank:
            yield from ((number, blank[0][1]) for number in range(blank[0][0], blank[-1][0] + 1))
            blank.clear()
        yield row


def _tsv_rows(path: Path, max_text_bytes: int, choose: ChooseColumns | None) -> Iterator[PlacedRow]:
    for number, line in _without_blank_end(lines(path, max_text_bytes)):
        try:
            yield number, line if isinstance(line, str) else line.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            yield number, "is not UTF-8"


def _json_rows(path: Path, max_text_bytes: int, choose: ChooseColumns | None) -> Iterator[PlacedRow]:
    for number, line in _without_blank_end(lines(path, max_text_bytes)):
        yield number, line if isinstance(line, str) else _json_row(line)


def _json_row(line: bytes) -> Row:
    try:
        row = _JSON.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "is not UTF-8"
    except RecursionError:
        return "is not JSON that can be used: it is nested too deeply"
    except ValueError as error:
        return f"is not JSON ({clipped(str(error))})"
    return row if isinstance(row, dict) else "is not a JSON object"


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {clipped(repr(twice))} stands there twice")
    return row


def _csv_rows(path: Path, max_text_bytes: int, choose: ChooseColumns | None) -> Iterator[PlacedRow]:
    yield from _without_blank_end(_csv_records(path, max_text_bytes))


def _csv_records(path: Path, max_text_bytes: int) -> Iterator[tuple[int, list[str] | str]]:
    separator = csv_separator(path)
    # bytes that are not UTF-8 become surrogates, so that only their own row is bad
    with open_bytes(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        csv.field_size_limit(2**31 - 1)  # `_RecordLines` has its own limit
        feed = _RecordLines(text, max_text_bytes)
        reader = csv.reader(feed, strict=True, delimiter=separator)
        while True:
            number = feed.begin_record()
            try:
                row: list[str] | str | None = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{path}: line {number}: the quoting is broken ({error})") from error
            except _TooLongError:
                if feed.number > number:
                    problem = f"a quotation mark is not closed, or the row {too_long(max_text_bytes)}"
                    raise DataError(f"{path}: line {number}: the quoting is broken ({problem})") from None
                row = too_long(max_text_bytes)
            if row is None:
                return
            yield number, row


_JSON = json.JSONDecoder(object_pairs_hook=_json_object)


class _TooLongError(Exception):
    """A record exceeds the limit."""


class _RecordLines:
    """Yields the lines of a text to `csv.reader`, up to the limit of a record.

    Args:
        text: the text to read.
        max_bytes: maximum number of bytes in a record.

    Attributes:
        number: number of the latest line, from 1.
    """

    def __init__(self, text: io.TextIOWrapper, max_bytes: int):
        self.number = 0
        self._text = text
        self._max_bytes = self._left = max_bytes

    def begin_record(self) -> int:
        """Begin a new record, and return its line number."""
        self._left = self._max_bytes
        return self.number + 1

    def __iter__(self) -> "_RecordLines":
        return self

    def __next__(self) -> str:
        most = max(self._left, 0) + 2  # room for \r\n
        line = self._text.readline(most)
        if not line:
            raise StopIteration
        self.number += 1
        size = len(line) if line.isascii() else len(line.encode(errors="surrogateescape"))
        self._left -= size
        if size > most or len(line) == most and line[-1] != "\n":
            while line and line[-1] not in "\r\n":
                line = self._text.readline(self._max_bytes)
            raise _TooLongError
        return line


_SPREADSHEETS = (".xlsx", ".xls", ".ods")

FILE_TYPES = {
    ".tsv": FileType("line", _tsv_rows),
    ".txt": FileType("line", _tsv_rows),
    ".data": FileType("line", _tsv_rows),
    ".csv": FileType("line", _csv_rows),
    ".jsonl": FileType("line", _json_rows),
    ".json": FileType("line", _json_rows),
    ".parquet": FileType("row", table_rows),
}
