"""Metrics of decisions, by what a decision gets right and wrong: `DECISION_METRICS` is the table of them.

A metric here is reported at a threshold, has an interval by the bootstrap, and can be what a threshold is best at.

Shapes: every argument is an array, and all of them have one shape; so has the result.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]  # weights of pairs, or how many they are


def accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the pairs that are decided rightly.

    Args:
        tp: pairs that match, and are said to.
        fp: pairs that do not match, and are said to.
        fn: pairs that match, and are said not to.
        tn: pairs that do not match, and are said not to.
    """
    return _ratio(tp + tn, tp + fp + fn + tn)


def precision(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the pairs said to match that do; 0 where there are none. Arguments as for `accuracy`."""
    return _ratio(tp, tp + fp)


def recall(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Share of the pairs that match that are said to; 0 where there are none. Arguments as for `accuracy`."""
    return _ratio(tp, tp + fn)


def f1(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Harmonic mean of precision and recall; 0 where both are. Arguments as for `accuracy`."""
    return _ratio(2 * tp, 2 * tp + fp + fn)


def mcc(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> Counts:
    """Matthews' correlation of decisions and truth; 0 where either is constant. Arguments as for `accuracy`."""
    # two square roots: the product of all four would overflow the 53 bits of a float64 first
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
    """Quotients; 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
