"""The report of an evaluation.

Shapes: n pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosent.data.datasets import TextDataset
from cosent.data.sources import Data
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.decide import describe_probability, is_chosen_on
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation, evaluate, load_test_data
from cosent.evaluation.metrics import CALIBRATION, CORRELATIONS, DECISION
from cosent.evaluation.report import plots
from cosent.evaluation.report.changes import CHOSE_THRESHOLD, OWN_THRESHOLD
from cosent.evaluation.report.page import Gallery, Report, gallery, render
from cosent.evaluation.report.pairs import PairsPart, pairs_part
from cosent.evaluation.report.tables import Captioned, Cell, interval, metric_title, name, number, table
from cosent.evaluation.scored import ScoredPairs
from cosent.files import writing
from cosent.model.decision import Decision
from cosent.model.encoder import SentenceBert

_ORDERING = (*CORRELATIONS, "average_precision", "roc_auc")
_DECIDING = (*DECISION, *CALIBRATION)
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


def report(
    model: SentenceBert,
    data: TextDataset | Data,
    folder: str | Path,
    *,
    base: SentenceBert | None = None,
    **options: Any,
) -> Path:
    """Evaluate a model, and write the result as one HTML page with plots, errors and slices of the data.

    Args:
        model: the model.
        data: a dataset of any format, or any source that `load_data` takes.
        folder: where to write report.html; created if it does not exist.
        base: for pairs, a model to compare the scores with, such as that before fine-tuning.
        options: single options of the evaluation, such as `positive_label_min=4`; see `EvaluationOptions`.

    Returns:
        The path of the page. It has no plots if matplotlib is not installed.

    Raises:
        UserError: if the data cannot be evaluated, or the folder cannot be written.
        TypeError: if the data is of a type that is not taken, or there is no such option.
    """
    dataset = load_test_data(data, model)
    scored = None if base is None else evaluate(base, dataset.records.tokenize(base), num_resamples=0).pairs
    page = evaluation_report(
        evaluate(model, dataset, **options),
        model_name=model.name_or_path,
        data_name=dataset.name,
        texts=list(dataset.records.texts),
        decision=model.settings.decision,
        base_name="" if base is None else base.name_or_path,
        base_scores=None if scored is None else scored.scores,
    )
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        return page.write(Path(folder), "report")


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
    chose = decision is not None and pairs is not None and is_chosen_on(decision, data_name, len(pairs.scores))
    page = EvaluationPage(
        title=model_name,
        data_name=data_name,
        num_examples=f"{result.metrics['n']:,}",
        positive_label_min=_positive_label_min(pairs),
        warnings=[*([CHOSE_THRESHOLD] if chose else []), *warnings_of(result)],
        metrics=_metric_groups(result, decision, chose_threshold=chose),
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


def _positive_label_min(pairs: ScoredPairs | None) -> str:
    """Return the lowest label of a match; "" if labels are 0 and 1 or do not say what matches."""
    if pairs is None or pairs.matches is None or not pairs.matches.any() or np.isin(pairs.labels, (0, 1)).all():
        return ""
    return f"{pairs.labels[pairs.matches].min():g}"


def _metric_groups(result: Evaluation, decision: Decision | None, *, chose_threshold: bool) -> list[Captioned]:
    """Group the metrics by how their threshold, if they need one, was chosen."""
    known = {*_ORDERING, *_DECIDING, *OWN_THRESHOLD, *_NOT_METRICS}
    others = [metric for metric in result.metrics if metric not in known and "second" not in metric]
    groups: list[tuple[str, Sequence[str]]] = [("", _ORDERING), ("", others)]
    if decision is not None:
        here = ", this very data, so no forecast" if chose_threshold else ""
        probability = f". {describe_probability(decision)}" if decision.calibration is not None else ""
        groups.append((f"At the stored threshold {decision}{here}{probability}", _DECIDING))
    groups.append(("Chosen on this very data, so no forecast for other data", OWN_THRESHOLD))
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
