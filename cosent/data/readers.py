"""Reads the examples of a source and reports bad rows.

`sources` opens it and `layouts` detects the meaning of a row; this module counts and names bad rows of any format.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from cosent.data.formats import FORMATS, DataFormat, Example
from cosent.data.layouts import Columns, Layout
from cosent.data.lines import MAX_TEXT_BYTES
from cosent.data.rows import PlacedRow, Row
from cosent.data.shown import clipped, shown, shown_names
from cosent.data.sources import Data, Source, file_source, name_of, sources_of
from cosent.errors import DataError

logger = logging.getLogger(__name__)

OnBadRows = Literal["error", "skip"]

_SHOWN_PROBLEMS = 5
_ROWS_TO_LOOK_AT = 1_000  # rows from which a file's layout is detected
_CHARACTERS_TO_LOOK_AT = 2**24


@dataclass
class ReadReport:
    """The result of reading a source.

    Attributes:
        path: the file, or another source's name.
        num_rows: number of rows, including bad ones.
        num_bad: number of rows that cannot be used.
        problems: the first few bad rows, with their line numbers.
        remarks: what was guessed, and how to override it.
    """

    path: str
    num_rows: int = 0
    num_bad: int = 0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add_problem(self, unit: str, number: int, problem: str) -> None:
        """Count a bad row, and record it if it is one of the first."""
        self.num_bad += 1
        if len(self.problems) < _SHOWN_PROBLEMS:
            self.problems.append(f"{unit} {number}: {clipped(problem)}")

    def __str__(self) -> str:
        more = [f"... and {self.num_bad - len(self.problems)} more"] if self.num_bad > len(self.problems) else []
        lines = "\n".join("  " + line for line in [*self.problems, *more])
        return f"{self.path}: {self.num_bad:,} of {self.num_rows:,} rows cannot be used\n{lines}"


def open_readers(
    source: Data,
    *,
    data_format: DataFormat = "auto",
    text_columns: tuple[str, ...] | None = None,
    label_column: str | None = None,
    on_bad_rows: OnBadRows = "error",
    likely_format: DataFormat | None = None,
    max_text_bytes: int = MAX_TEXT_BYTES,
    split: str | None = None,
    revision: str | None = None,
    usual_split: str = "train",
    streaming: bool = False,
) -> "list[ExampleReader]":
    """Open all parts of a source; `read_records` documents the arguments.

    With `streaming`, a dataset of the Hub is downloaded while it is read, instead of before, and the first bad row is
    an error at once.

    Returns:
        A reader for each part; there is at least one.

    Raises:
        DataError: if a path, a dataset or a split does not exist.
        TypeError: if the source is of a type that is not taken.
        ValueError: if the format is unknown.
    """
    columns = Columns(data_format, text_columns, label_column, likely_format)
    parts = sources_of(source, split=split, revision=revision, usual=usual_split, streaming=streaming)
    options: dict[str, Any] = {"on_bad_rows": on_bad_rows, "max_text_bytes": max_text_bytes, "is_stream": streaming}
    return [ExampleReader(part, columns, **options) for part in parts]


def read_all(readers: "Sequence[ExampleReader]") -> Iterator[Example]:
    """Yield the examples of all parts of a source, which must have the same format.

    Args:
        readers: a reader for each part.

    Raises:
        DataError: as in `ExampleReader`, and if the parts have different formats.
    """
    first = readers[0]
    for reader in readers:
        if reader is not first and reader.columns.likely is None:
            reader.columns = replace(reader.columns, likely=first.data_format)
        for example in reader:
            if reader.data_format != first.data_format:
                raise DataError(
                    f"{reader.source.name} holds {reader.data_format}, and {first.source.name} {first.data_format}: "
                    "examples are read together only if they have one format"
                )
            yield example


def joint_report(readers: "list[ExampleReader]") -> ReadReport:
    """Join the reports of all parts of a source.

    Args:
        readers: a reader for each part; there is at least one.
    """
    reports = [reader.report for reader in readers]
    if len(reports) == 1:
        return reports[0]
    problems = [f"{report.path}, {problem}" for report in reports for problem in report.problems]
    remarks = [f"{report.path}: {remark}" for report in reports for remark in report.remarks]
    return ReadReport(
        name_of([reader.source for reader in readers]),
        sum(report.num_rows for report in reports),
        sum(report.num_bad for report in reports),
        problems[:_SHOWN_PROBLEMS],
        remarks,
    )


class ExampleReader:
    """Iterates over the examples of a source; afterwards, `report` says what was found.

    Declared columns are used as declared. Other columns are found by name if the first row is a header, else by
    position: text, text, label (pairs); text, class (classes); anchor, positive, negatives (triplets); or one text each
    (sentences: every column that does not hold only numbers).

    Args:
        source: a source, or the path of a TSV, CSV, JSON lines or Parquet file, optionally gzipped.
        columns: the declared columns. None: detect everything.
        on_bad_rows: "error" raises at the end of the source if any row is bad, "skip" leaves bad rows out.
        max_text_bytes: bytes at most in a line, in a row of a .csv file, and in a text of a table; a row beyond that is
            bad.
        is_stream: whether the source may not end soon: "error" then raises at the first bad row.

    Attributes:
        data_format: the format of the rows; None before the first example.
        unit: the unit of `place`, "line" or "row".
        place: the line or row of the latest example, counted from 1.

    Raises:
        DataError: on iterating, if the source is missing, empty, of an unknown kind, lacks a column or does not say
            what it means; if rows are bad and not to be skipped; if no row is left.
        TypeError: on iterating, if a row in memory is neither a tuple nor a dict.
    """

    def __init__(
        self,
        source: Source | str | Path,
        columns: Columns | None = None,
        *,
        on_bad_rows: OnBadRows = "error",
        max_text_bytes: int = MAX_TEXT_BYTES,
        is_stream: bool = False,
    ):
        self.source = source if isinstance(source, Source) else file_source(source)
        if on_bad_rows not in get_args(OnBadRows):
            raise ValueError(f"on_bad_rows must be one of {', '.join(get_args(OnBadRows))}, got {on_bad_rows!r}")
        self.columns = columns or Columns()
        self.on_bad_rows = on_bad_rows
        self.max_text_bytes = max_text_bytes
        self.report = ReadReport(self.source.name)
        self.data_format: DataFormat | None = None
        self.unit = self.source.unit
        self.place = 0
        self.is_stream = is_stream
        self._said: set[str] = set()

    def __iter__(self) -> Iterator[Example]:
        self.report = ReadReport(self.source.name)
        rows = self.source.open(self.max_text_bytes, self.columns.needed)
        if remark := self.source.remark():
            self._remark(remark)
        yield from self._examples(rows)
        if not self.report.num_rows:
            raise DataError(f"{self.source.name} is empty: it holds no rows")
        if self.report.num_bad and self.on_bad_rows == "error":
            self._refuse_bad()
        if self.report.num_bad == self.report.num_rows:
            raise DataError("\n".join(filter(None, (f"no row is left\n{self.report}", self._hint()))))

    def _refuse_bad(self) -> NoReturn:
        hint = self._hint()
        raise DataError(
            f"{self.report}\n{hint}{' ' if hint else ''}Mend them, or leave them out with on_bad_rows='skip'."
        )

    def _hint(self) -> str:
        """Explain in a sentence or two where bad rows may come from; "" if unknown."""
        if clue := self.source.explain():
            return clue
        if self.report.num_bad == self.report.num_rows and (format_clue := self._other_format()):
            return format_clue
        first = self.report.problems[0]
        is_like_a_header = first.endswith("is no number") or " columns, expected " in first
        if first.startswith("line 1:") and is_like_a_header and not self.columns.texts:
            return "If line 1 is a header, name its columns with text_columns and label_column."
        return ""

    def _other_format(self) -> str:
        """Suggest another format if no row has the requested one."""
        if self.columns.data_format == "auto" or not self.source.is_repeatable:
            return ""
        first = _first_rows(self.source.open(self.max_text_bytes, None))
        try:
            layout = Columns("auto", self.columns.texts, self.columns.label).find(_as_written(first))
        except ValueError:
            return ""
        if layout is None or layout.data_format == self.columns.data_format:
            return ""
        return f"These look like {layout.data_format}, not {self.columns.data_format}: docs/training.md has their loss."

    def _remark(self, remark: str) -> None:
        """Add a remark to the report, and log it once."""
        self.report.remarks.append(remark)
        if remark not in self._said:
            self._said.add(remark)
            logger.info("%s: %s", self.source.name, remark)

    def _examples(self, rows: Iterator[PlacedRow]) -> Iterator[Example]:
        first = _first_rows(rows)
        layout = self._find(_as_written(first))
        names = self._class_names(layout)
        self.data_format = layout.data_format if layout else None
        header: list[str] | None = None
        names_pending = layout is not None and layout.is_header
        for self.place, row in chain(first, rows):
            if names_pending and isinstance(row, list):
                names_pending, header = False, row
                continue
            self.report.num_rows += 1
            try:
                if layout is None:
                    raise ValueError(self.columns.not_found(list(row)) if isinstance(row, dict) else row)
                if header is not None and row == header:
                    raise ValueError("is the header again")
                if names:
                    row = _with_class_name(row, layout, names)
                yield from layout.examples(row)
            except ValueError as error:
                self.report.add_problem(self.unit, self.place, str(error))
                if self.is_stream and self.on_bad_rows == "error":
                    self._refuse_bad()

    def _find(self, rows: list[Row]) -> Layout | None:
        """Detect the file's layout, and report what was guessed."""
        try:
            layout = self.columns.find(rows)
        except ValueError as error:
            clue = self.source.explain()
            raise DataError(f"{self.source.name}: {error}" + (f"\n{clue}" if clue else "")) from error
        if layout is not None and layout.remark:
            self._remark(layout.remark)
        return layout

    def _class_names(self, layout: Layout | None) -> list[str]:
        """Return the names of the classes that a label column numbers, and refuse them as scores if they are many."""
        names = self.source.class_names.get(str(layout.label), []) if layout is not None else []
        if not names or layout is None or FORMATS[layout.data_format].label is str:
            return names
        if len(names) == 2 and names[1] != names[0] and names[1].endswith(names[0]):
            raise DataError(
                f"{self.source.name}: in the column {layout.label!r}, 0 is {names[0]!r} and 1 is {names[1]!r}, so that "
                "1 would be no match; map them to scores, higher for a match"
            )
        if len(names) != 2:
            raise DataError(
                f"{self.source.name}: the column {layout.label!r} holds the classes {shown_names(names)}, which are no "
                "scores; map them to numbers, or name another with label_column"
            )
        self._remark(f"the label 1, {names[1]!r}, is a match, and 0, {names[0]!r}, is none")
        return names


def _first_rows(rows: Iterator[PlacedRow]) -> list[PlacedRow]:
    """The rows by which a file's layout is told: many, if they are not long."""
    first: list[PlacedRow] = []
    characters = 0
    while len(first) < _ROWS_TO_LOOK_AT and characters < _CHARACTERS_TO_LOOK_AT:
        row = next(rows, None)
        if row is None:
            break
        first.append(row)
        characters += _num_characters(row[1])
    return first


def _as_written(rows: list[PlacedRow]) -> list[Row]:
    """Write the fields of rows without names as a file would, because layouts are told by texts."""
    return [[_field(value) for value in row] if isinstance(row, list) else row for _, row in rows]


def _field(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)


def _with_class_name(row: Row, layout: Layout, names: list[str]) -> Row:
    """Replace the number of a class by its name, unless it is a score."""
    label = str(layout.label)
    if not isinstance(row, dict) or not isinstance(row.get(label), int):
        return row
    number = row[label]
    if not 0 <= number < len(names):
        raise ValueError(f"the label is {shown(number)}, which stands for none")
    return row | {label: names[number]} if FORMATS[layout.data_format].label is str else row


def _num_characters(row: Row) -> int:
    fields: Iterable[object] = row.values() if isinstance(row, dict) else row
    return sum(len(field) if isinstance(field, (str, list)) else 1 for field in fields)
