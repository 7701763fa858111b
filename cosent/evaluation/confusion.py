"""Metrics of decisions, computed from their right and wrong counts; `DECISION_METRICS` lists them.

Each metric is reported at a threshold, gets a bootstrap interval, and can be the criterion for choosing a threshold.

Shapes: all arguments and the result are arrays of one shape.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]  # numbers of pairs, or sums of their weights


def accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the pairs that are decided correctly.

    Args:
        tp: true positives: matching pairs that are called a match.
        fp: false positives: other pairs that are called a match.
        fn: false negatives: matching pairs that are not called a match.
        tn: true negatives: other pairs that are not called a match.
    """
    return _ratio(tp + tn, tp + fp + fn + tn)


def precision(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the pairs called a match that do match; 0 if there are none. Arguments as for `accuracy`."""
    return _ratio(tp, tp + fp)


def recall(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the matching pairs that are called a match; 0 if there are none. Arguments as for `accuracy`."""
    return _ratio(tp, tp + fn)


def f1(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Harmonic mean of precision and recall; 0 if both are 0. Arguments as for `accuracy`."""
    return _ratio(2 * tp, 2 * tp + fp + fn)


def mcc(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Matthews' correlation of decisions and truth; 0 if either is constant. Arguments as for `accuracy`."""
    # two square roots, because the product of all four sums could exceed the 53 bits of a float64
    margins = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return _ratio(tp * tn - fp * fn, margins)


DECISION_METRICS: dict[str, Callable[[Counts, Counts, Counts, Counts], Counts]] = {
    "accuracy": accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "mcc": mcc,
}


def _ratio(numerator: Counts, denominator: Counts) -> Counts:
    """Divide elementwise; 0 if the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
