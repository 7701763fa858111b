"""Tables with typed cells, so that templates need not guess the type from the text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "number", "interval", "text"]

MISSING = "–"  # stands for a number that is not finite

_TITLES = {
    "ece": "expected calibration error",
    "brier": "Brier score",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC-AUC",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "best_f1": "best F1",
    "best_f1_threshold": "its threshold",
    "best_threshold": "its threshold",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        kind: the type of the content, used as its CSS class: the "name" of a row, a "number", an "interval", or "text"
            of the data, which may be long.
        content: the text, not escaped.
    """

    kind: Kind
    content: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: a cell for each column, of the same kind as the cells below.
        rows: one row or more, each with a cell for each column.
    """

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Captioned:
    """A table with a caption.

    Attributes:
        caption: a sentence; "" for none.
        table: the table; None if the caption says it all.
    """

    caption: str
    table: Table | None


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Make a table with a title for each column."""
    header = [Cell(cell.kind, title) for title, cell in zip(titles, rows[0], strict=True)]
    return Table(header, rows)


def name(content: str) -> Cell:
    """Make a cell that names its row."""
    return Cell("name", content)


def number(value: float, form: str = ".4f") -> Cell:
    """Make a cell of a number, with a format specification."""
    return Cell("number", f"{value:{form}}" if math.isfinite(value) else MISSING)


def interval(ends: tuple[float, float] | None) -> Cell:
    """Make a cell of an interval; empty if there is none."""
    return Cell("interval", "" if ends is None else " to ".join(number(end).content for end in ends))


def text(lines: Sequence[str]) -> Cell:
    """Make a cell of texts of the data, one per line."""
    return Cell("text", "\n".join(" ".join(line.split()) for line in lines))


def metric_title(metric: str) -> str:
    """Return the title of a metric in reports."""
    return _TITLES.get(metric, metric.replace("_", " "))
