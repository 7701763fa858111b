"""Scored pairs, and every metric of them.

Shapes: n pairs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosent.evaluation.metrics import best_decisions, calibration_errors, correlations, decision


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs, what a model says of them, and what is true.

    Attributes:
        scores: (n,) finite float64 cosines.
        labels: (n,) float64.
        clusters: (n,) equal for pairs that share a text, directly or through others.
        matches: (n,) booleans, which of them match; None where labels do not say.
        threshold: a pair is said to match when its score is at or above it; None: nothing is decided.
        probabilities: (n,) of a match; None: not known.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.float64]
    clusters: NDArray[np.int64]
    matches: NDArray[np.bool_] | None = None
    threshold: float | None = None
    probabilities: NDArray[np.float64] | None = None

    def select(self, rows: NDArray[Any]) -> "ScoredPairs":
        """Some of the pairs, by number or by a (n,) boolean."""
        return replace(
            self,
            scores=self.scores[rows],
            labels=self.labels[rows],
            clusters=self.clusters[rows],
            matches=None if self.matches is None else self.matches[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def metrics(self) -> dict[str, float]:
        """Those of `correlations`; where labels say what matches, those of `best_decisions`, with a threshold those of
        `decision`, and with probabilities those of `calibration_errors`.
        """
        metrics = correlations(self.scores, self.labels)
        if self.matches is not None:
            metrics |= best_decisions(self.scores, self.matches)
            if self.threshold is not None:
                metrics |= decision(self.scores, self.matches, self.threshold)
            if self.probabilities is not None:
                metrics |= calibration_errors(self.probabilities, self.matches)
        return metrics
