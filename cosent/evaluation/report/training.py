"""The report of a training run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cosent.data.formats import Example
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.report import plots
from cosent.evaluation.report.changes import CHOSEN_HERE, OWN_THRESHOLD, Change, chosen_note
from cosent.evaluation.report.page import Gallery, Report, gallery, render
from cosent.evaluation.report.tables import Cell, Table, interval, metric_title, name, number, table, text

Logs = Sequence[dict[str, float]]

_KEPT = " kept"


@dataclass(frozen=True)
class TrainingRun:
    """What the page of a training run tells besides the Trainer's logs.

    Attributes:
        outcome: sentences about the result.
        warnings: reasons not to trust it.
        changes: the metrics before and after training.
        data: a description of each split, by name.
        examples: the first training examples.
        settings: the settings, by name.
    """

    outcome: Sequence[str] = ()
    warnings: Sequence[str] = ()
    changes: Sequence[Change] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingPage:
    """The content of `training.html`.

    Attributes:
        title: the title, with the name of the model.
        run: the facts that need no table.
        changes: the metrics before and after training; None if nothing was evaluated.
        changes_note: explains the marks in it; "" if there are none.
        pictures: the curves.
        data: a description of each split; None if it is not known.
        examples: the first training examples; None if they are not known.
        settings: the settings; None if they are not known.
        evaluations: metrics of the eval data by step; None if there was no evaluation.
        evaluations_note: explains the marks in it; "" if there are none.
        losses: losses by step; None if none was logged.
        losses_note: what the losses leave out; "" if nothing.
    """

    title: str
    run: TrainingRun
    changes: Table | None
    changes_note: str
    pictures: Gallery
    data: Table | None
    examples: Table | None
    settings: Table | None
    evaluations: Table | None
    evaluations_note: str
    losses: Table | None
    losses_note: str


def training_report(
    log_history: Logs, *, model_name: str, kept_step: int | None = None, run: TrainingRun | None = None
) -> Report:
    """Make the report of a training run.

    Args:
        log_history: the Trainer's logs.
        model_name: the name of the model.
        kept_step: the step whose model was kept, if it is the best by the eval data.
        run: data, settings and results; None: only the logs are reported.

    Returns:
        The report.
    """
    run = run or TrainingRun()
    pictures = plots.draw_history(log_history, kept_step) if plots.can_draw() else {}
    evaluations = _evaluations(log_history, kept_step)
    page = TrainingPage(
        title=f"Training of {model_name}",
        run=run,
        changes=_changes(run.changes),
        changes_note=chosen_note(run.changes),
        pictures=gallery(pictures),
        data=_named(run.data),
        examples=_examples(run.examples),
        settings=_named(run.settings),
        evaluations=evaluations,
        evaluations_note=_evaluations_note(evaluations),
        losses=_losses(log_history),
        losses_note=_losses_note(log_history),
    )
    return Report(render("training.html", page), pictures)


def _changes(rows: Sequence[Change]) -> Table | None:
    if not rows:
        return None
    has_intervals = any(row.interval for row in rows)
    cells: list[list[Cell]] = [
        [name(row.title), number(row.before), _marked(row.after, row.is_chosen_here), interval(row.interval)]
        for row in rows
    ]
    return table(["", "before", "after", f"{CONFIDENCE:.0%} interval" if has_intervals else ""], cells)


def _marked(value: float, is_chosen_here: bool) -> Cell:
    cell = number(value)
    return Cell("number", f"{cell.content}{CHOSEN_HERE}") if is_chosen_here else cell


def _named(rows: Mapping[str, str]) -> Table | None:
    return table(["", ""], [[name(what), text([content])] for what, content in rows.items()]) if rows else None


def _examples(examples: Sequence[Example]) -> Table | None:
    has_labels = any(example.label is not None for example in examples)
    rows = [[text(example.texts), *([name(_label(example.label))] if has_labels else [])] for example in examples]
    return table(["texts", *(["label"] if has_labels else [])], rows) if rows else None


def _label(label: float | str | None) -> str:
    return "" if label is None else label if isinstance(label, str) else f"{label:g}"


def _evaluations(log_history: Logs, kept_step: int | None) -> Table | None:
    by_step: dict[float, dict[str, float]] = {}
    for log in log_history:
        if any(map(plots.is_metric, log)):  # each set of eval data has a log of its own
            by_step.setdefault(log["step"], {}).update(log)
    logs = list(by_step.values())
    if not logs:
        return None
    names = dict.fromkeys(metric for log in logs for metric in log)
    metrics = [metric for metric in names if plots.is_metric(metric) and not metric.endswith("_threshold")]
    rows = [
        [
            Cell("number", f"{log['step']:,.0f}{_KEPT if log['step'] == kept_step else ''}"),
            *(number(log.get(metric, math.nan)) for metric in metrics),
        ]
        for log in logs
    ]
    return table(["step", *map(_column_title, metrics)], rows)


def _column_title(metric: str) -> str:
    metric = metric.removeprefix("eval_")
    is_chosen_here = any(f"_{metric}".endswith(f"_{name}") for name in OWN_THRESHOLD)
    return f"{metric_title(metric)}{CHOSEN_HERE if is_chosen_here else ''}"


def _evaluations_note(evaluations: Table | None) -> str:
    if evaluations is None:
        return ""
    notes = []
    if any(cell.content.endswith(CHOSEN_HERE) for cell in evaluations.header):
        notes.append(f"{CHOSEN_HERE} with the threshold that suits the same data best, so no forecast.")
    if len(evaluations.rows) > 1 and any(row[0].content.endswith(_KEPT) for row in evaluations.rows):
        notes.append("The kept step was chosen by these figures, so its own are no forecast.")
    return " ".join(notes)


def _losses(log_history: Logs) -> Table | None:
    rows = [[number(log["step"], ",.0f"), number(log["loss"])] for log in log_history if "loss" in log]
    return table(["step", "loss"], rows) if rows else None


def _losses_note(log_history: Logs) -> str:
    if not any(log.get("short_batches") for log in log_history):
        return ""
    return (
        "Means over the full batches since the row above. Short ones, such as the last batch of an epoch, are left "
        "out: losses that compare the examples of a batch are lower with fewer of them, whatever the model."
    )
