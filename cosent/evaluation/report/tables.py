"""Tables whose cells say what they hold, so that no template has to guess it from how a cell reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "number", "interval", "text"]

MISSING = "–"  # in place of a number that is not finite

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
        kind: what it holds, which is its CSS class: the "name" of its row, a "number", an "interval", or "text" of the
            data, which may be long.
        content: what it shows, not escaped.
    """

    kind: Kind
    content: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: a cell for each column, of the kind of the cells below.
        rows: at least one, each with a cell for each column.
    """

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Captioned:
    """A table under a sentence.

    Attributes:
        caption: the sentence; "" for none.
        table: None where the sentence says it all.
    """

    caption: str
    table: Table | None


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """A table with a title over each column."""
    header = [Cell(cell.kind, title) for title, cell in zip(titles, rows[0], strict=True)]
    return Table(header, rows)


def name(content: str) -> Cell:
    """A cell that names its row."""
    return Cell("name", content)


def number(value: float, form: str = ".4f") -> Cell:
    """A cell of a number, written as a format specification says."""
    return Cell("number", f"{value:{form}}" if math.isfinite(value) else MISSING)


def interval(ends: tuple[float, float] | None) -> Cell:
    """A cell of an interval; empty where there is none."""
    return Cell("interval", "" if ends is None else " to ".join(number(end).content for end in ends))


def text(lines: Sequence[str]) -> Cell:
    """A cell of texts of the data, a line each."""
    return Cell("text", "\n".join(" ".join(line.split()) for line in lines))


def metric_title(metric: str) -> str:
    """What a page calls a metric."""
    return _TITLES.get(metric, metric.replace("_", " "))
