"""Decisions by threshold: a pair matches if its score is at or above the threshold.

The search covers every attainable decision, from "nothing matches" to "everything matches", and keeps equal scores
together, so a reported value is exactly the value that the threshold attains on the same scores.

Shapes: n pairs, m attainable decisions (one more than there are distinct scores).
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosent.errors import UserError
from cosent.evaluation.confusion import DECISION_METRICS

logger = logging.getLogger(__name__)

_AGAINST = ("precision", "recall")  # maximising one alone minimises the other
_ALONE = tuple(name for name in DECISION_METRICS if name not in _AGAINST)
THRESHOLD_METRICS = f"{', '.join(_ALONE)}, precision@P, recall@R or cost:FP:FN"


@dataclass(frozen=True)
class Decisions:
    """All attainable decisions over scored pairs, from the strictest to the loosest.

    Attributes:
        thresholds: (m,) float64, descending; decision k is `score >= thresholds[k]`.
        true_positives: (m,) int64, matching pairs that decision k calls a match.
        false_positives: (m,) int64, other pairs that decision k calls a match.
        num_positives: the number of pairs that match in truth.
        num_negatives: the number of pairs that do not.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    num_positives: int
    num_negatives: int

    def values(self, metric: str) -> NDArray[np.float64]:
        """Compute the (m,) values of a metric.

        Args:
            metric: a key of `DECISION_METRICS`.
        """
        tp, fp = self.true_positives.astype(np.float64), self.false_positives.astype(np.float64)
        return DECISION_METRICS[metric](tp, fp, self.num_positives - tp, self.num_negatives - fp)

    def cost(self, false_positive: float, false_negative: float) -> NDArray[np.float64]:
        """Compute the (m,) mean costs of the decisions, given the cost of each kind of mistake."""
        missed = self.num_positives - self.true_positives
        return (false_positive * self.false_positives + false_negative * missed) / (
            self.num_positives + self.num_negatives
        )

    def best(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Return the highest of (m,) values and the threshold that attains it, the strictest in a tie."""
        k = int(np.argmax(values))
        return float(values[k]), float(self.thresholds[k])


@dataclass(frozen=True)
class ThresholdMetric:
    """The criterion that a threshold optimises.

    Attributes:
        name: the criterion as the user wrote it.
        kind: a metric of `DECISION_METRICS`, or "cost" for the lowest mean cost. "precision" stands for the highest
            recall with at least a given precision, "recall" for the highest precision with at least a given recall.
        limits: the required precision or recall, or the costs of a false positive and a false negative.
    """

    name: str
    kind: str
    limits: tuple[float, ...] = ()

    @classmethod
    def parse(cls, name: str) -> "ThresholdMetric":
        """Parse a criterion.

        Args:
            name: "accuracy", "f1", "mcc", "precision@0.95", "recall@0.9", or "cost:5:1", where a false positive costs
                5 and a false negative 1.

        Raises:
            UserError: if the name is none of these.
        """
        kind, *limits = name.replace("@", ":").split(":")
        try:
            numbers = tuple(float(limit) for limit in limits)
        except ValueError:
            numbers = (math.nan,)
        is_share = len(numbers) == 1 and 0 < numbers[0] <= 1
        is_cost = len(numbers) == 2 and min(numbers) >= 0 and 0 < max(numbers) < math.inf
        if kind in _ALONE and name == kind:
            return cls(name, kind)
        if kind in _AGAINST and is_share and "@" in name:
            return cls(name, kind, numbers)
        if kind == "cost" and is_cost and "@" not in name:
            return cls(name, "cost", numbers)
        raise UserError(
            f"a threshold is chosen by {THRESHOLD_METRICS} (precision@0.95 for example; cost:5:1 where a false match "
            f"costs five times a missed one), not by {name!r}"
        )

    def choose(self, decisions: "Decisions") -> tuple[float, float]:
        """Find the best threshold.

        If no threshold has the required precision, this logs a warning and chooses the one with the highest precision.

        Args:
            decisions: all attainable decisions.

        Returns:
            The value that the threshold attains (the metric, the recall at a precision, the precision at a recall or
            the mean cost), and the threshold.
        """
        if self.kind == "cost":
            value, threshold = decisions.best(-decisions.cost(*self.limits))
            return -value, threshold
        if self.kind == "precision":
            enough = decisions.values("precision") >= self.limits[0]
            if not enough.any():
                value, threshold = decisions.best(decisions.values("precision"))
                logger.warning("no threshold has a %s: the highest precision, %.4f, is taken", self.name, value)
                return float(decisions.values("recall")[decisions.thresholds == threshold][0]), threshold
            return decisions.best(np.where(enough, decisions.values("recall"), -1.0))
        if self.kind == "recall":
            enough = decisions.values("recall") >= self.limits[0]
            return decisions.best(np.where(enough, decisions.values("precision"), -1.0))
        return decisions.best(decisions.values(self.kind))


def attainable_decisions(scores: ArrayLike, matches: ArrayLike) -> Decisions:
    """List the decisions of all possible thresholds, in O(n log n).

    Each threshold lies midway between two neighbouring scores, or on the higher one if no number lies between them. The
    threshold of "nothing matches" is the next number above the highest score.

    Args:
        scores: (n,) finite numbers, n >= 1.
        matches: (n,) booleans, True if a pair matches in truth.

    Returns:
        The decisions, strictest first.

    Raises:
        ValueError: if the shapes differ, there are no scores, or one is not finite.

    Example:
        >>> decisions = attainable_decisions([0.9, 0.7, 0.7, 0.1], [True, True, False, False])
        >>> accuracy, threshold = decisions.best(decisions.values("accuracy"))
        >>> print(f"{accuracy:.2f} at {threshold:.2f}")
        0.75 at 0.80
    """
    scores = np.asarray(scores, dtype=np.float64)
    matches = np.asarray(matches, dtype=bool)
    if scores.ndim != 1 or scores.shape != matches.shape or not len(scores):
        raise ValueError(f"scores and matches must both be (n,), n >= 1; got {scores.shape} and {matches.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {np.count_nonzero(~np.isfinite(scores))} that are not")
    order = np.argsort(-scores, kind="stable")
    scores, matches = scores[order], matches[order]
    last_of_tie = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    true_positives = np.append(0, np.cumsum(matches)[last_of_tie])
    false_positives = np.append(0, last_of_tie + 1 - true_positives[1:])
    distinct = scores[last_of_tie]  # descending
    midway = distinct[1:] / 2 + distinct[:-1] / 2
    midway = np.where(midway > distinct[1:], midway, distinct[:-1])
    thresholds = np.concatenate([[np.nextafter(distinct[0], np.inf)], midway, distinct[-1:]])
    return Decisions(thresholds, true_positives, false_positives, int(matches.sum()), int((~matches).sum()))
