"""The results of a run on a GPU as `gpu.md`, for readers, and `gpu.json`, with every figure."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from gpu_bench import Figures
from measuring import table

PEER = "sentence-transformers"
PEER_STEP = "sentence-transformers, raw step"
NOT_REACHED = "not measured: the run has not come this far"
NO_TIME = "not measured: time"


@dataclass
class Row:
    """A row of a table: how to measure it, and its results so far."""

    table: str
    name: tuple[str, str]  # the first two cells: the encoder and its texts, and what runs it
    measure: Callable[[], Figures]
    about: float  # seconds that it is likely to take
    status: str = NOT_REACHED  # "measured", or the reason why not
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    traceback: str = ""
    warnings: list[str] = field(default_factory=list)  # of cosent, for example that it could not record graphs

    @property
    def title(self) -> str:
        """The row's table and first two cells."""
        return f"{self.table}: {', '.join(self.name)}"


class Column(NamedTuple):
    """A figure and its format; with a reference, the figure is divided by that of the encoder's row with that cell."""

    key: str
    spec: str
    reference: str = ""


COLUMNS = {
    "pairs/s": Column("pairs_per_second", ",.0f"),
    "times theirs": Column("pairs_per_second", ".2f", PEER_STEP),
    "step, ms": Column("step_ms", ",.1f"),
    "time, at once = 1": Column("step_ms", ".2f", "at once"),
    "of peak": Column("share_of_peak", ".0%"),
    "timed steps": Column("timed_steps", ",.0f"),
    "slowest, ms": Column("slowest_host_step_ms", ",.1f"),
    "untimed, s": Column("untimed_seconds", ",.1f"),
    "restarts": Column("restarts", ",.0f"),
    "peak, GiB": Column("peak_gib", ",.1f"),
    "texts": Column("num_texts", ",.0f"),
    "batch size": Column("batch_sizes", ",.0f"),
    "texts/s": Column("texts_per_second", ",.0f"),
    "best, times theirs": Column("best_texts_per_second", ".2f", PEER),
    "under the profiler, ms": Column("profiled_step_ms", ",.1f"),
    "kernels run, ms": Column("busy_ms", ",.1f"),
    "share": Column("busy_share", ".0%"),
    "kernels": Column("kernels_per_step", ",.0f"),
    "graph launches": Column("graph_launches_per_step", ",.0f"),
}
# The title of a table: the headers of its columns, and a note.
TABLES = {
    "Training": (
        "pairs/s | step, ms | of peak | timed steps | slowest, ms | untimed, s | restarts | peak, GiB | times theirs",
        "CoSENT training. cosent runs its whole trainer. sentence-transformers runs bare steps without its trainer, on "
        "padded batches that are already on the device, which favours it. Timing starts when steps are steady, and "
        'restarts after a step that recorded a graph or compiled code. "slowest" is the longest timed step on the '
        'host, and "untimed" the time before timing starts. "of peak" is the share of the measured rate of matrix '
        "products that real tokens use.",
    ),
    "Encoding": (
        "texts | batch size | texts/s | peak, GiB | best, times theirs",
        "Distinct texts; the best of two calls after the warm-up. cosent's batch size counts texts of 128 tokens, "
        "sentence-transformers' counts texts of any length.",
    ),
    "Large batches": (
        "pairs/s | step, ms | timed steps | slowest, ms | peak, GiB | time, at once = 1",
        "A step of cosent's trainer on one large batch: with gradient caching, and with the whole batch at once.",
    ),
    "Profile of the device": (
        "step, ms | under the profiler, ms | kernels run, ms | share | kernels | graph launches",
        "Steady steps of cosent's trainer under torch's profiler. The time that kernels run counts overlapping kernels "
        "once; its share is that of a step without the profiler. On a CPU, operations take the place of kernels.",
    ),
    "Profile of the host": (
        "step, ms | under the profiler, ms",
        "Steady steps of cosent's trainer under cProfile, which slows Python down and sees only the training thread: "
        "the backward pass runs in another thread, and appears as the call that waits for it. Functions are listed by "
        "their own time.",
    ),
}


class Page:
    """The rows of a run, and what to know before reading them."""

    def __init__(self, folder: Path, device: torch.device, facts: dict[str, str], rows: list[Row]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.device = device
        self.facts = facts
        self.rows = rows

    def write(self) -> None:
        """Replace both files at one stroke each, so that a killed run leaves complete ones."""
        facts = self.facts | {"taken": f"{seconds_so_far():.0f} s"}
        rows = [{name: value for name, value in vars(row).items() if name != "measure"} for row in self.rows]
        content = json.dumps(facts | {"rows": rows}, indent=1, ensure_ascii=False) + "\n"
        for name, text in (("gpu.json", content), ("gpu.md", self.markdown(facts))):
            unfinished = self.folder / f"{name}.unfinished"
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self.folder / name)

    def markdown(self, facts: dict[str, str]) -> str:
        """Lay out the page."""
        parts = [f"# Measured on {self.device.type}", "\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
        for title, (columns, note) in TABLES.items():
            header = columns.split(" | ")
            rows = [row for row in self.rows if row.table == title]
            if rows:
                lines = [cells(row, rows, header) for row in rows]
                parts += [f"## {title}", note, table(["encoder, text", "how", *header], lines)]
                parts += [ranking(row) for row in rows if "top" in row.figures]
                parts += [f"{', '.join(row.name)}, warning: {text}" for row in rows for text in row.warnings]
        return "\n\n".join(parts) + "\n"


def seconds_so_far() -> float:
    """The age of this process."""
    return time.time() - psutil.Process().create_time()


def cells(row: Row, rows: list[Row], header: list[str]) -> list[str]:
    """The cells of a row; one without figures gives the reason in its third cell."""
    if row.status != "measured":
        return [*row.name, shortened(row.status, 200), *[""] * (len(header) - 1)]
    return [*row.name, *(cell(row, rows, COLUMNS[name]) for name in header)]


def cell(row: Row, rows: list[Row], column: Column) -> str:
    """Format a figure, or several, for one row of a table; an unknown one is a dash."""
    figure = row.figures.get(column.key)
    if column.reference:
        name = row.name[0], column.reference
        references = [other.figures[column.key] for other in rows if other.name == name and other.figures]
        figure = figure / references[0] if references else None
    if figure is None:
        return "-"
    figures = figure if isinstance(figure, list | tuple) else [figure]
    return " / ".join(format(value, column.spec) for value in figures)


def ranking(row: Row) -> str:
    """List the kernels or functions that take most time."""
    lines = [[shortened(name, 100), f"{ms:.3f}", f"{calls:,.1f}"] for name, ms, calls in row.figures["top"]]
    return table(["kernel or function", "ms a step", "calls a step"], lines)


def shortened(text: str, length: int) -> str:
    """Make a text fit into a cell."""
    text = text.replace("|", "\\|")
    return text if len(text) <= length else f"{text[: length - 3]}..."
