"""The report of an evaluation.

Shapes: n pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.metrics import BEST_DECISIONS, CALIBRATION, CORRELATIONS, DECISION
from cosent.evaluation.report import plots
from cosent.evaluation.report.page import Gallery, Report, gallery, render
from cosent.evaluation.report.pairs import PairsPart, pairs_part
from cosent.evaluation.report.tables import Captioned, Cell, interval, metric_title, name, number, table
from cosent.evaluation.scored import ScoredPairs
from cosent.model.decision import Decision

_ORDERING = (*CORRELATIONS, "average_precision", "roc_auc")
_DECIDING = (*DECISION, *CALIBRATION)
_CHOSEN_HERE = tuple(metric for metric in BEST_DECISIONS if metric.startswith("best"))
_NOT_METRICS = ("n", "num_queries")


@dataclass(frozen=True)
class EvaluationPage:
    """The content of `evaluation.html`.

    Attributes:
        title: the name of the model.
        data_name: the name of the data.
        num_examples: the number of examples.
        positive_label_min: the lowest label of a match; "" if there is none.
        warnings: reasons not to trust the metrics.
        metrics: the metrics, in groups.
        has_intervals: whether some metrics have an interval.
        pictures: the plots of pairs.
        pairs: the sections that only pairs have; None for other formats.
    """

    title: str
    data_name: str
    num_examples: str
    positive_label_min: str
    warnings: Sequence[str]
    metrics: Sequence[Captioned]
    has_intervals: bool
    pictures: Gallery
    pairs: PairsPart | None


def evaluation_report(
    result: Evaluation,
    *,
    model_name: str,
    data_name: str,
    texts: Sequence[Sequence[str]] = (),
    decision: Decision | None = None,
    base_name: str = "",
    base_scores: NDArray[np.float64] | None = None,
) -> Report:
    """Make the report of an evaluation.

    Args:
        result: the evaluation.
        model_name: the name of the model.
        data_name: the name of the data.
        texts: (n,) the texts of the pairs.
        decision: the model's stored threshold and its origin.
        base_name: the name of the model before fine-tuning.
        base_scores: (n,) scores of the same pairs by that model.

    Returns:
        The report.
    """
    pairs = result.pairs
    pictures = _draw(pairs, base_scores)
    page = EvaluationPage(
        title=model_name,
        data_name=data_name,
        num_examples=f"{result.metrics['n']:,}",
        positive_label_min=_positive_label_min(pairs, decision),
        warnings=warnings_of(result),
        metrics=_metric_groups(result, decision),
        has_intervals=bool(result.intervals),
        pictures=gallery(pictures),
        pairs=None
        if pairs is None
        else pairs_part(pairs, result.metrics, texts, base_name=base_name, base_scores=base_scores),
    )
    return Report(render("evaluation.html", page), pictures)


def _draw(pairs: ScoredPairs | None, base_scores: NDArray[np.float64] | None) -> dict[str, bytes]:
    if pairs is None or not plots.can_draw():
        return {}
    pictures = plots.draw_pairs(pairs)
    if base_scores is not None:
        pictures["percentiles"] = plots.draw_percentiles(base_scores, pairs.scores)
    return pictures


def _positive_label_min(pairs: ScoredPairs | None, decision: Decision | None) -> str:
    limit = decision.positive_label_min if pairs is not None and decision is not None else None
    return "" if limit is None else f"{limit:g}"


def _metric_groups(result: Evaluation, decision: Decision | None) -> list[Captioned]:
    """Group the metrics by how their threshold, if they need one, was chosen."""
    known = {*_ORDERING, *_DECIDING, *_CHOSEN_HERE, *_NOT_METRICS}
    others = [metric for metric in result.metrics if metric not in known and "second" not in metric]
    groups: list[tuple[str, Sequence[str]]] = [("", _ORDERING), ("", others)]
    if decision is not None:
        best = f"At the stored threshold {decision.threshold:.4f}, the best by {decision.metric}"
        groups.append((f"{best} on {decision.calibrated_on} ({decision.num_pairs:,} pairs)", _DECIDING))
    groups.append(("Chosen on this very data, so no forecast for other data", _CHOSEN_HERE))
    filled = [(caption, _metric_rows(result, metrics)) for caption, metrics in groups]
    return [_metric_group(caption, rows) for caption, rows in filled if rows]


def _metric_rows(result: Evaluation, metrics: Sequence[str]) -> list[list[Cell]]:
    return [
        [name(metric_title(metric)), number(result.metrics[metric]), interval(result.intervals.get(metric))]
        for metric in metrics
        if metric in result.metrics and metric != "threshold"
    ]


def _metric_group(caption: str, rows: Sequence[Sequence[Cell]]) -> Captioned:
    has_intervals = any(ends.content for _, _, ends in rows)
    return Captioned(caption, table(["", "value", f"{CONFIDENCE:.0%} interval" if has_intervals else ""], rows))
