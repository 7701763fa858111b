"""Decisions by threshold: a pair matches when its score is at or above it.

Every attainable decision is looked at once, from "nothing matches" to "everything matches", with equal scores kept
together, so a figure reported here is the figure that the threshold attains on the same scores.

Shapes: n pairs, m attainable decisions (one more than there are distinct scores).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Decisions:
    """All attainable decisions over scored pairs, from the strictest to the loosest.

    Attributes:
        thresholds: (m,) float64, descending; `score >= thresholds[k]` makes decision k.
        true_positives: (m,) int64, matching pairs that decision k calls a match.
        false_positives: (m,) int64, other pairs that decision k calls a match.
        num_positives: how many pairs match in truth.
        num_negatives: how many do not.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    num_positives: int
    num_negatives: int

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(m,) share of pairs that each decision gets right."""
        right = self.true_positives + self.num_negatives - self.false_positives
        return right / (self.num_positives + self.num_negatives)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(m,) harmonic mean of precision and recall; 0 where nothing is found."""
        found = self.true_positives + self.false_positives + self.num_positives
        return 2 * self.true_positives / np.maximum(found, 1)

    def best(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """The highest of (m,) values and the threshold that attains it; of several, the strictest."""
        k = int(np.argmax(values))
        return float(values[k]), float(self.thresholds[k])


def attainable_decisions(scores: ArrayLike, matches: ArrayLike) -> Decisions:
    """List what every possible threshold decides, in O(n log n).

    A threshold stands midway between two neighbouring scores, the place that is furthest from both; where no number
    lies between them, on the higher one. "Nothing matches" has the next number above the highest score.

    Args:
        scores: (n,) finite numbers, n >= 1.
        matches: (n,) booleans, True where a pair matches in truth.

    Returns:
        The decisions, strictest first.

    Raises:
        ValueError: if the shapes differ, there are no scores, or one is not finite.

    Example:
        >>> decisions = attainable_decisions([0.9, 0.7, 0.7, 0.1], [True, True, False, False])
        >>> accuracy, threshold = decisions.best(decisions.accuracy)
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
