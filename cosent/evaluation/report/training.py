"""The report of a training run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cosent.evaluation.report import plots
from cosent.evaluation.report.page import Gallery, Report, gallery, render
from cosent.evaluation.report.tables import Table, number, table


@dataclass(frozen=True)
class TrainingPage:
    """The content of `training.html`.

    Attributes:
        title: the title, with the name of the model.
        pictures: the curves.
        evaluations: metrics of the eval data by step; None if there was no evaluation.
        losses: losses by step; None if none was logged.
    """

    title: str
    pictures: Gallery
    evaluations: Table | None
    losses: Table | None


def training_report(log_history: Sequence[dict[str, float]], *, model_name: str) -> Report:
    """Make the report of a training run.

    Args:
        log_history: the Trainer's logs.
        model_name: the name of the model.

    Returns:
        The report, with curves, the evaluations and the losses.
    """
    pictures = plots.draw_history(log_history) if plots.can_draw() else {}
    page = TrainingPage(
        title=f"Training of {model_name}",
        pictures=gallery(pictures),
        evaluations=_evaluations(log_history),
        losses=_losses(log_history),
    )
    return Report(render("training.html", page), pictures)


def _evaluations(log_history: Sequence[dict[str, float]]) -> Table | None:
    logs = [log for log in log_history if any(map(plots.is_metric, log))]
    if not logs:
        return None
    metrics = [metric for metric in logs[0] if plots.is_metric(metric)]
    titles = [metric.removeprefix("eval_").replace("_", " ") for metric in metrics]
    rows = [[number(log["step"], ",.0f"), *(number(log.get(metric, math.nan)) for metric in metrics)] for log in logs]
    return table(["step", *titles], rows)


def _losses(log_history: Sequence[dict[str, float]]) -> Table | None:
    rows = [[number(log["step"], ",.0f"), number(log["loss"])] for log in log_history if "loss" in log]
    return table(["step", "loss"], rows) if rows else None
