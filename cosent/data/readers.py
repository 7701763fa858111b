"""Files as examples, with a report of what was found.

`rows` opens the file, `layouts` says what a row means; here bad rows are counted and named, whatever the format.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from cosent.data.formats import DataFormat, Example
from cosent.data.layouts import Columns
from cosent.data.rows import GZIP_ERRORS, PlacedRow, open_rows
from cosent.errors import DataError

OnBadRows = Literal["error", "skip"]

_SHOWN_PROBLEMS = 5
_ROWS_TO_LOOK_AT = 1_000  # before a file's layout is settled


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


class ExampleReader:
    """Iterates over the examples of a file; when it is through, `report` says what was there.

    Columns are found by name where the first line is a header, as they are declared where they are, else in the order
    text, text, label (pairs); text, class (classes); anchor, positive, negatives (triplets); or as a text each
    (sentences: every column that does not hold numbers alone).

    Args:
        path: see `open_rows` for its kinds.
        columns: what is known of them. None: all is to be found out.
        on_bad_rows: "error" raises at the end of the file if any row is bad, "skip" leaves bad rows out.

    Attributes:
        data_format: what the rows mean; None before the first example.
        unit: what is counted in the file, "line" or "row".
        place: the line or row of the latest example, from 1.

    Raises:
        DataError: on iterating, if the file is missing, empty, of an unknown kind, lacks a column or does not say
            what it means; if rows are bad and not to be skipped; if no row is left.
    """

    def __init__(self, path: str | Path, columns: Columns | None = None, *, on_bad_rows: OnBadRows = "error"):
        self.path = Path(path)
        self.columns = columns or Columns()
        self.on_bad_rows = on_bad_rows
        self.report = ReadReport(str(path))
        self.data_format: DataFormat | None = None
        self.unit = "line"
        self.place = 0

    def __iter__(self) -> Iterator[Example]:
        self.report = ReadReport(str(self.path))
        self.unit, rows = open_rows(self.path)
        try:
            yield from self._examples(rows)
        except GZIP_ERRORS as error:
            raise DataError(f"{self.path} is damaged: {error}") from error
        if not self.report.num_rows:
            raise DataError(f"{self.path} is empty: it holds no rows")
        if self.report.num_bad and self.on_bad_rows == "error":
            header = "If line 1 is a header, name its columns with text_columns and label_column. "
            first = self.report.problems[0]
            hint = header if first.startswith("line 1:") and "UTF-8" not in first and not self.columns.texts else ""
            if self.report.num_bad == self.report.num_rows:
                hint = self._other_format() or hint
            raise DataError(f"{self.report}\n{hint}Mend them, or leave them out with on_bad_rows='skip'.")
        if self.report.num_bad == self.report.num_rows:
            raise DataError(f"no row is left\n{self.report}")

    def _other_format(self) -> str:
        """A hint at the format that a file has, if none of its rows has the one that was asked for."""
        first = [row for _, row in islice(open_rows(self.path)[1], _ROWS_TO_LOOK_AT)]
        try:
            layout = Columns("auto", self.columns.texts, self.columns.label).find(first)
        except ValueError:
            return ""
        if layout is None or layout.data_format == self.columns.data_format:
            return ""
        return (
            f"These look like {layout.data_format}, not {self.columns.data_format}: docs/training.md has their loss. "
        )

    def _examples(self, rows: Iterator[PlacedRow]) -> Iterator[Example]:
        first = list(islice(rows, _ROWS_TO_LOOK_AT))
        try:
            layout = self.columns.find([row for _, row in first])
        except ValueError as error:
            raise DataError(f"{self.path}: {error}") from error
        self.data_format = layout.data_format if layout else None
        names_pending = layout is not None and layout.is_header
        for self.place, row in chain(first, rows):
            if names_pending and isinstance(row, list):
                names_pending = False
                continue
            self.report.num_rows += 1
            try:
                if layout is None:
                    raise ValueError(self.columns.not_found(list(row)) if isinstance(row, dict) else row)
                yield from layout.examples(row)
            except ValueError as error:
                self.report.add_problem(self.unit, self.place, str(error))
