"""The sections of an evaluation's report that only scored pairs have.

Shapes: n pairs, k columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cosent.evaluation.report.tables import Captioned, Cell, Table, metric_title, name, number, table, text
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.slices import Slice, by_label, by_length, by_overlap

SHOWN_MISTAKES = 12

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_SLICE_METRICS = ("accuracy", "f1", "spearman")  # without a threshold, slices only have the last one

Texts = Sequence[Sequence[str]]


@dataclass(frozen=True)
class PairsPart:
    """The content of `pairs.html`.

    Attributes:
        confusions: a confusion matrix for each threshold; none if labels do not say what matches.
        by_length: the metrics by length; None without texts.
        by_overlap: the metrics by lexical overlap; None without texts.
        by_label: the metrics by label; None if there are too many labels.
        percentiles: percentiles of the scores.
        mistakes: the most confident wrong decisions of either kind; none without decisions or texts.
        misplaced: without decisions, the pairs whose rank differs most from their label's; None without texts.
    """

    confusions: Sequence[Captioned]
    by_length: Table | None
    by_overlap: Table | None
    by_label: Table | None
    percentiles: Table
    mistakes: Sequence[Captioned]
    misplaced: Table | None


def pairs_part(
    pairs: ScoredPairs,
    metrics: Mapping[str, float],
    texts: Texts,
    *,
    base_name: str,
    base_scores: NDArray[np.float64] | None,
) -> PairsPart:
    """Collect the sections about pairs.

    Args:
        pairs: n scored pairs.
        metrics: their metrics.
        texts: (n,) their texts; empty if unknown.
        base_name: the name of the model before fine-tuning.
        base_scores: (n,) scores of the same pairs by that model; None if it was not evaluated.

    Returns:
        The sections.
    """
    has_texts, has_decisions = bool(len(texts)), pairs.matches is not None and pairs.threshold is not None
    labels = by_label(pairs)
    return PairsPart(
        confusions=_confusions(pairs, metrics),
        by_length=_slice_table(by_length(pairs, texts), _SLICE_METRICS) if has_texts else None,
        by_overlap=_slice_table(by_overlap(pairs, texts), _SLICE_METRICS) if has_texts else None,
        by_label=_slice_table(labels, ("accuracy",)) if labels else None,
        percentiles=_percentiles(pairs.scores, base_name, base_scores),
        mistakes=_mistakes(pairs, texts) if has_texts and has_decisions else [],
        misplaced=_misplaced(pairs, texts) if has_texts and not has_decisions else None,
    )


def _confusions(pairs: ScoredPairs, metrics: Mapping[str, float]) -> list[Captioned]:
    if pairs.matches is None:
        return []
    thresholds = {
        "stored threshold": pairs.threshold,
        "most accurate threshold, chosen on this very data": metrics["best_threshold"],
    }
    return [
        Captioned(f"At the {origin}, {threshold:.4f}:", _confusion(pairs.scores >= threshold, pairs.matches))
        for origin, threshold in thresholds.items()
        if threshold is not None
    ]


def _confusion(said: NDArray[np.bool_], matches: NDArray[np.bool_]) -> Table:
    """Count (n,) decisions by (n,) truths."""
    rows = [
        [name(truth), *(number(int(np.sum(side & true)), ",") for side in (said, ~said))]
        for truth, true in (("matches", matches), ("does not match", ~matches))
    ]
    return table(["truth", "said to match", "said not to"], rows)


def _slice_table(slices: Sequence[Slice], wanted: Sequence[str]) -> Table:
    shown = [metric for metric in wanted if any(metric in part.metrics for part in slices)]
    rows = [
        [
            name(part.name),
            number(part.n, ","),
            number(part.mean_score),
            *(number(part.metrics[metric]) for metric in shown),
        ]
        for part in slices
    ]
    return table(["", "pairs", "mean score", *map(metric_title, shown)], rows)


def _percentiles(scores: NDArray, base_name: str, base_scores: NDArray | None) -> Table:
    columns = {"score": scores} if base_scores is None else {f"{base_name}, before": base_scores, "after": scores}
    values = np.percentile(list(columns.values()), _PERCENTILES, axis=1)  # (percentiles, k)
    rows = [
        [number(percent / 100, ".0%"), *map(number, row)] for percent, row in zip(_PERCENTILES, values, strict=True)
    ]
    return table(["of pairs", *columns], rows)


def _mistakes(pairs: ScoredPairs, texts: Texts) -> list[Captioned]:
    """List the false matches with the highest scores and the missed matches with the lowest."""
    assert pairs.matches is not None and pairs.threshold is not None
    said = pairs.scores >= pairs.threshold
    return [
        _wrong(pairs, texts, said & ~pairs.matches, -pairs.scores, "do not match, and are said to"),
        _wrong(pairs, texts, ~said & pairs.matches, pairs.scores, "match, and are said not to"),
    ]


def _wrong(pairs: ScoredPairs, texts: Texts, wrong: NDArray[np.bool_], order: NDArray, what: str) -> Captioned:
    """List the pairs that a (n,) boolean mask marks as wrong, in ascending order of a (n,) key."""
    numbers = np.flatnonzero(wrong)
    first = numbers[np.argsort(order[numbers], kind="stable")]
    caption = f"{len(numbers):,} pairs {what}. Farthest from the threshold:"
    return Captioned(caption, _examples(pairs, texts, first) if len(first) else None)


def _misplaced(pairs: ScoredPairs, texts: Texts) -> Table:
    gaps = np.abs(stats.rankdata(pairs.scores) - stats.rankdata(pairs.labels))
    return _examples(pairs, texts, np.argsort(-gaps, kind="stable"))


def _examples(pairs: ScoredPairs, texts: Texts, order: NDArray[np.int64]) -> Table:
    rows: list[list[Cell]] = [
        [number(pairs.scores[n]), number(pairs.labels[n], "g"), text(texts[n])] for n in order[:SHOWN_MISTAKES].tolist()
    ]
    return table(["score", "label", "texts"], rows)
