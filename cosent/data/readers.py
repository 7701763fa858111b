"""Rows of labelled pairs from files: TSV, CSV, JSON lines and Parquet, each plain or gzipped.

A format's reader yields what it finds row by row, with the place of each row; `PairReader` then picks the columns and
checks every value, so that a bad row is reported the same way whatever the format.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from cosent.errors import DataError

OnBadRows = Literal["error", "skip"]

TEXT_COLUMNS = (
    ("query1", "query2"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("sentence_1", "sentence_2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("q1", "q2"),
    ("source", "target"),
)
LABEL_COLUMNS = ("label", "labels", "score", "similarity", "similarity_score", "is_duplicate", "relatedness_score")

_SHOWN_PROBLEMS = 5
_GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)

_Content = TypeVar("_Content", bytes, list[str])

# A row as its format gives it: its place in the file (a line or row number, from 1), and its values by position or by
# name, or a sentence that says why it has none.
RawRow = tuple[int, list[str] | dict[str, Any] | str]


@dataclass(frozen=True)
class Pair:
    """Two texts and how alike they are."""

    text1: str
    text2: str
    label: float


@dataclass(frozen=True)
class _Layout:
    """The places or names of (text, text, label); for places, how many fields a row has; whether it is a header."""

    columns: list[int] | list[str]
    width: int = 0
    may_be_wider: bool = False
    is_header: bool = False


@dataclass
class ReadReport:
    """What reading a file found.

    Attributes:
        path: the file.
        num_rows: rows in it, bad ones included.
        num_bad: rows that cannot be used.
        problems: the first few bad rows, with their places.
    """

    path: str
    num_rows: int = 0
    num_bad: int = 0
    problems: list[str] = field(default_factory=list)

    def add_problem(self, unit: str, number: int, problem: str) -> None:
        """Count a bad row, and keep its place if it is one of the first."""
        self.num_bad += 1
        if len(self.problems) < _SHOWN_PROBLEMS:
            self.problems.append(f"{unit} {number}: {problem}")

    def __str__(self) -> str:
        more = [f"... and {self.num_bad - len(self.problems)} more"] if self.num_bad > len(self.problems) else []
        lines = "\n".join("  " + line for line in [*self.problems, *more])
        return f"{self.path}: {self.num_bad:,} of {self.num_rows:,} rows cannot be used\n{lines}"


class PairReader:
    """Iterates over the pairs of a file; when it is through, `report` says what was there.

    Columns are found by name where the first line is a header, by `text_columns` and `label_column` where they are
    given, else in the order text, text, label.

    Args:
        path: .tsv and .txt are tab-separated without quoting, .csv is comma-separated with quoting, .jsonl and
            .json hold an object a line, .parquet a table; .gz may follow. Text is UTF-8, with or without a BOM.
        text_columns: the two text columns, by name or, in a file without a header, by position from 0.
        label_column: the label's column, likewise.
        on_bad_rows: "error" raises at the end of the file if any row is bad, "skip" leaves bad rows out.

    Raises:
        DataError: on iterating, if the file is missing, empty, of an unknown kind, or lacks a column; if rows are
            bad and not to be skipped; if no row is left.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        text_columns: tuple[str, str] | None = None,
        label_column: str | None = None,
        on_bad_rows: OnBadRows = "error",
    ):
        self.path = Path(path)
        self.text_columns = text_columns
        self.label_column = label_column
        self.on_bad_rows = on_bad_rows
        self.report = ReadReport(str(path))

    def __iter__(self) -> Iterator[Pair]:
        self.report = ReadReport(str(self.path))
        unit, rows = _open_rows(self.path)
        try:
            yield from self._pairs(unit, rows)
        except _GZIP_ERRORS as error:
            raise DataError(f"{self.path} is damaged: {error}") from error
        if not self.report.num_rows:
            raise DataError(f"{self.path} is empty: it holds no rows")
        if self.report.num_bad and self.on_bad_rows == "error":
            header = "If line 1 is a header, name its columns with --text_columns and --label_column. "
            first = self.report.problems[0]
            hint = header if first.startswith("line 1:") and "UTF-8" not in first and not self.text_columns else ""
            raise DataError(f"{self.report}\n{hint}Mend them, or leave them out with --on_bad_rows skip.")
        if self.report.num_bad == self.report.num_rows:
            raise DataError(f"no row is left\n{self.report}")

    def _pairs(self, unit: str, rows: Iterator[RawRow]) -> Iterator[Pair]:
        layout = None
        for number, row in rows:
            if layout is None and isinstance(row, list):
                layout = self._list_layout(row)
                if layout.is_header:
                    continue
            self.report.num_rows += 1
            try:
                if isinstance(row, dict):
                    layout = layout or self._dict_layout(row)
                yield _to_pair(row, layout)
            except ValueError as error:
                self.report.add_problem(unit, number, str(error))

    def _dict_layout(self, row: dict[str, Any]) -> "_Layout":
        names = self._match_names(list(row))
        if names is None:
            raise ValueError(self._not_found(list(row)))
        return _Layout(names)

    def _list_layout(self, first: list[str]) -> "_Layout":
        declared = [*(self.text_columns or ()), *([self.label_column] if self.label_column else [])]
        if declared and all(name.isdecimal() for name in declared):
            columns = [int(name) for name in [*(self.text_columns or ("0", "1")), self.label_column or "2"]]
            return _Layout(columns, max(columns) + 1, may_be_wider=True)
        names = self._match_names(first)
        if names is not None:
            return _Layout([first.index(name) for name in names], len(first), is_header=True)
        if declared:
            raise DataError(f"{self.path}: line 1 {self._not_found(first)}")
        return _Layout([0, 1, 2], width=3)

    def _match_names(self, names: list[str]) -> list[str] | None:
        """The names of (text, text, label) among `names`: the declared ones, else the ones in common use."""
        known = {_plain(name): name for name in names}
        texts = next((pair for pair in TEXT_COLUMNS if all(name in known for name in pair)), None)
        label = next((name for name in LABEL_COLUMNS if name in known), None)
        found = [
            *(self.text_columns or [known[name] for name in texts or ()]),
            *([self.label_column] if self.label_column else [known[label]] if label else []),
        ]
        return found if len(found) == 3 and all(name in names for name in found) else None

    def _not_found(self, names: list[str]) -> str:
        return (
            f"has the columns {', '.join(map(repr, names))}, among which the two texts and the label are not found; "
            "name them with --text_columns and --label_column"
        )


def _open_rows(path: Path) -> tuple[str, Iterator[RawRow]]:
    """What a row's number counts, and the rows."""
    if not path.is_file():
        raise DataError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, not a data file")
    suffix = (path.suffixes[-2:-1] if path.suffix == ".gz" else path.suffixes[-1:]) or [""]
    readers: dict[str, tuple[str, Callable[[Path], Iterator[RawRow]]]] = {
        ".tsv": ("line", _tsv_rows),
        ".txt": ("line", _tsv_rows),
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


def _tsv_rows(path: Path) -> Iterator[RawRow]:
    for number, line in _without_blank_end(_lines(path)):
        try:
            yield number, line.decode("utf-8").split("\t")
        except UnicodeDecodeError:
            yield number, "is not UTF-8"


def _json_rows(path: Path) -> Iterator[RawRow]:
    for number, line in _without_blank_end(_lines(path)):
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield number, "is not UTF-8"
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON ({error})"
        else:
            yield number, row if isinstance(row, dict) else "is not a JSON object"


def _csv_rows(path: Path) -> Iterator[RawRow]:
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


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow
    from pyarrow import parquet

    with _open(path) as file:
        try:
            table = parquet.ParquetFile(io.BytesIO(file.read()) if path.suffix == ".gz" else file)
            rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from error


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _to_pair(row: list[str] | dict[str, Any] | str, layout: _Layout | None) -> Pair:
    """A checked pair, or a ValueError that says what is wrong with the row."""
    if isinstance(row, str) or layout is None:
        raise ValueError(row)
    if isinstance(row, list) and (len(row) < layout.width or len(row) > layout.width and not layout.may_be_wider):
        raise ValueError(f"{len(row)} columns, expected {layout.width}{' or more' if layout.may_be_wider else ''}")
    if isinstance(row, dict) and not all(column in row for column in layout.columns):
        raise ValueError(f"lacks {', '.join(repr(column) for column in layout.columns if column not in row)}")
    text1, text2, label = (row[column] for column in layout.columns)  # type: ignore[index]
    return Pair(_to_text(text1, "first text"), _to_text(text2, "second text"), _to_label(label))


def _to_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {value!r}, which is no text")
    text = value.strip()
    if not text:
        raise ValueError(f"the {name} is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the {name} is not UTF-8") from None
    return text


def _to_label(value: Any) -> float:
    try:
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"label {value!r} is no number") from None
    if not math.isfinite(label):
        raise ValueError(f"label {value!r} is not finite")
    return label
