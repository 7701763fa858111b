"""Rows of files as their format gives them: TSV, CSV, JSON lines and Parquet, each plain or gzipped."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from cosent.errors import DataError

GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)

# of a table, as Python objects: pyarrow's 65,536 would take gigabytes where a column holds embeddings or images
_ROWS_AT_A_TIME = 1_024

_Content = TypeVar("_Content", bytes, list[str])

# A row's values by position or by name, or a sentence that says why it has none.
Row = list[str] | dict[str, Any] | str
# A row with its place in the file: a line or row number, from 1.
PlacedRow = tuple[int, Row]


def open_rows(path: Path) -> tuple[str, Iterator[PlacedRow]]:
    """Open a data file.

    Args:
        path: .tsv, .txt and .data are tab-separated without quoting, .csv is comma-separated with quoting, .jsonl and
            .json hold an object a line, .parquet a table; .gz may follow. Text is UTF-8, with or without a BOM.

    Returns:
        What a row's number counts, "line" or "row", and the rows.

    Raises:
        DataError: if the file is missing or of an unknown kind; on iterating, if it is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a data file")
    suffix = (path.suffixes[-2:-1] if path.suffix == ".gz" else path.suffixes[-1:]) or [""]
    readers: dict[str, tuple[str, Callable[[Path], Iterator[PlacedRow]]]] = {
        ".tsv": ("line", _tsv_rows),
        ".txt": ("line", _tsv_rows),
        ".data": ("line", _tsv_rows),
        ".csv": ("line", _csv_rows),
        ".jsonl": ("line", _json_rows),
        ".json": ("line", _json_rows),
        ".parquet": ("row", _parquet_rows),
    }
    if suffix[0].lower() not in readers:
        raise DataError(f"{path} is of an unknown kind; known are {', '.join(readers)}, and each with .gz")
    unit, reader = readers[suffix[0].lower()]
    return unit, reader(path)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends. Only a line feed ends a line: `str.splitlines` would cut at characters of the text."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")


def _without_blank_end(rows: Iterable[tuple[int, _Content]]) -> Iterator[tuple[int, _Content]]:
    """Leave out blank lines at the end of a file; elsewhere they are rows, and bad ones."""
    blank: list[tuple[int, _Content]] = []
    for row in rows:
        if row[1]:
            yield from blank
            blank.clear()
            yield row
        else:
            blank.append(row)


def _tsv_rows(path: Path) -> Iterator[PlacedRow]:
    for number, line in _without_blank_end(_lines(path)):
        try:
            yield number, line.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            yield number, "is not UTF-8"


def _json_rows(path: Path) -> Iterator[PlacedRow]:
    for number, line in _without_blank_end(_lines(path)):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, "is not UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON ({error})"
        else:
            yield number, row if isinstance(row, dict) else "is not a JSON object"


def _csv_rows(path: Path) -> Iterator[PlacedRow]:
    yield from _without_blank_end(_csv_records(path))


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    # surrogates stand for bytes that are not UTF-8, so that only their own row is bad
    with _open(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(text, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{path}: line {number}: the quoting is broken ({error})") from error
            if row is None:
                return
            yield number, row


def _parquet_rows(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    from pyarrow import parquet

    with _open(path) as file:
        try:
            table = parquet.ParquetFile(io.BytesIO(file.read()) if path.suffix == ".gz" else file)
            batches = table.iter_batches(batch_size=_ROWS_AT_A_TIME)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from error
