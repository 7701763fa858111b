"""Scored pairs and their metrics.

Shapes: n pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosent.errors import UserError
from cosent.evaluation.metrics import best_decisions, calibration_errors, correlations, decision

# (n,) scores and labels -> metrics by name
ComputeMetrics = Callable[[NDArray[np.float64], NDArray[np.float64]], Mapping[str, float]]

# Names that an evaluation adds to the metrics of pairs.
_RESERVED = ("n", "alignment", "uniformity", "effective_rank", "seconds", "texts_per_second")


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs with a model's scores and the true labels.

    Attributes:
        scores: (n,) finite float64 cosines.
        labels: (n,) float64 labels.
        clusters: (n,) ids that are equal for pairs that share a text, directly or through other pairs.
        matches: (n,) booleans, whether a pair matches in truth; None if the labels do not say.
        threshold: the model calls a pair a match if its score is at or above this value; None: no decisions.
        probabilities: (n,) probabilities of a match; None: unknown.
        compute_metrics: computes further metrics from scores and labels.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.float64]
    clusters: NDArray[np.int64]
    matches: NDArray[np.bool_] | None = None
    threshold: float | None = None
    probabilities: NDArray[np.float64] | None = None
    compute_metrics: ComputeMetrics | None = None

    def select(self, rows: NDArray[Any]) -> "ScoredPairs":
        """Select pairs by index or by a (n,) boolean mask."""
        return replace(
            self,
            scores=self.scores[rows],
            labels=self.labels[rows],
            clusters=self.clusters[rows],
            matches=None if self.matches is None else self.matches[rows],
            probabilities=None if self.probabilities is None else self.probabilities[rows],
        )

    def metrics(self) -> dict[str, float]:
        """Compute `correlations` and, if labels say what matches, the metrics of decisions.

        These are `best_decisions`, with a threshold also `decision`, and with probabilities `calibration_errors`.

        Raises:
            UserError: if `compute_metrics` returns anything but numbers by name, or the name of a known metric.
        """
        metrics = correlations(self.scores, self.labels)
        if self.matches is not None:
            metrics |= best_decisions(self.scores, self.matches)
            if self.threshold is not None:
                metrics |= decision(self.scores, self.matches, self.threshold)
            if self.probabilities is not None:
                metrics |= calibration_errors(self.probabilities, self.matches)
        own = self.own_metrics()
        if twice := own.keys() & {*metrics, *_RESERVED}:
            raise UserError(f"compute_metrics names a metric {min(twice)!r}, which is computed already: rename it")
        return metrics | own

    def own_metrics(self) -> dict[str, float]:
        """Compute the metrics of `compute_metrics`.

        Raises:
            UserError: if it returns anything but numbers by name.
        """
        if self.compute_metrics is None:
            return {}
        computed = self.compute_metrics(self.scores.copy(), self.labels.copy())
        try:
            return {str(name): float(value) for name, value in dict(computed).items()}
        except (TypeError, ValueError) as error:
            raise UserError(f"compute_metrics must return numbers by name, got {computed!r}") from error
