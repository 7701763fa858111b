"""Metrics of how well scores order and separate labelled pairs, from arrays to plain numbers.

Shapes: n pairs.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cosent.evaluation.confusion import DECISION_METRICS
from cosent.evaluation.threshold import Decisions, attainable_decisions

CORRELATIONS = ("spearman", "pearson")
BEST_DECISIONS = ("best_accuracy", "best_threshold", "best_f1", "best_f1_threshold", "average_precision", "roc_auc")
DECISION = ("accuracy", "threshold", *(name for name in DECISION_METRICS if name != "accuracy"))
CALIBRATION = ("ece", "brier")

NUM_BINS = 15  # of probability, as in Guo et al.


def correlations(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Compute Spearman's and Pearson's correlation of scores with labels.

    Args:
        scores: (n,) numbers.
        labels: (n,) numbers.

    Returns:
        "spearman" (ties get their mean rank) and "pearson"; nan if either side is constant or n < 2.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    return {
        "spearman": _pearson(stats.rankdata(scores), stats.rankdata(labels)),
        "pearson": _pearson(scores, labels),
    }


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(stats.pearsonr(x, y).statistic)


def best_decisions(scores: ArrayLike, matches: ArrayLike) -> dict[str, float]:
    """Compute the best accuracy and F1 of any threshold on these scores, and two metrics without a threshold.

    The thresholds are chosen on the same data, so the best values are an upper bound, not a forecast.

    Args:
        scores: (n,) finite numbers.
        matches: (n,) booleans.

    Returns:
        "best_accuracy", "best_threshold", "best_f1", "best_f1_threshold", "average_precision" (sum of precision times
        gain in recall) and "roc_auc" (ties count half); the last two are nan if all pairs match or none does.
    """
    decisions = attainable_decisions(scores, matches)
    accuracy, threshold = decisions.best(decisions.values("accuracy"))
    f1, f1_threshold = decisions.best(decisions.values("f1"))
    return {
        "best_accuracy": accuracy,
        "best_threshold": threshold,
        "best_f1": f1,
        "best_f1_threshold": f1_threshold,
        **_areas(decisions),
    }


def _areas(decisions: Decisions) -> dict[str, float]:
    if not decisions.num_positives or not decisions.num_negatives:
        return {"average_precision": math.nan, "roc_auc": math.nan}
    recall = decisions.true_positives / decisions.num_positives
    fall_out = decisions.false_positives / decisions.num_negatives
    precision = decisions.true_positives[1:] / (decisions.true_positives[1:] + decisions.false_positives[1:])
    return {
        "average_precision": float(np.sum(np.diff(recall) * precision)),
        "roc_auc": float(np.trapezoid(recall, fall_out)),
    }


def decision(scores: ArrayLike, matches: ArrayLike, threshold: float) -> dict[str, float]:
    """Compute the metrics of one threshold's decisions: a pair matches if score >= threshold.

    Args:
        scores: (n,) numbers.
        matches: (n,) booleans.
        threshold: the threshold.

    Returns:
        The metrics of `DECISION_METRICS`, and "threshold".
    """
    said = np.asarray(scores) >= threshold
    matches = np.asarray(matches, dtype=bool)
    tp, fp = int(np.sum(said & matches)), int(np.sum(said & ~matches))
    fn, tn = int(np.sum(~said & matches)), int(np.sum(~said & ~matches))
    counts = [np.array(count, dtype=np.float64) for count in (tp, fp, fn, tn)]
    metrics = {name: float(metric(*counts)) for name, metric in DECISION_METRICS.items()}
    return {name: float(threshold) if name == "threshold" else metrics[name] for name in DECISION}


def calibration_bins(probabilities: ArrayLike) -> NDArray[np.int64]:
    """Assign (n,) probabilities to 15 equal bins from 0 to 1; a bin includes its upper end."""
    return np.clip(np.ceil(np.asarray(probabilities) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def calibration_errors(probabilities: ArrayLike, matches: ArrayLike) -> dict[str, float]:
    """Compute how far predicted probabilities are from the observed frequencies.

    Args:
        probabilities: (n,) probabilities of a match, from 0 to 1.
        matches: (n,) booleans.

    Returns:
        "ece", the expected calibration error: the sum over 15 equal bins of (share of the pairs in the bin) * |mean
        probability - share of matches|; "brier", the mean of (probability - match)^2.

    Reference: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017, equation 3; Brier,
        "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    errors = np.asarray(probabilities, dtype=np.float64) - np.asarray(matches, dtype=bool)
    gaps = np.bincount(calibration_bins(probabilities), weights=errors)
    return {"ece": float(np.abs(gaps).sum() / len(errors)), "brier": float(np.mean(np.square(errors)))}
