"""Calibration: maps a score to the probability that two texts match.

Shapes: n pairs, k knots.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit, logit

CalibrationMethod = Literal["auto", "platt", "isotonic", "none"]

ENOUGH_FOR_ISOTONIC = 1_000  # pairs; with fewer, isotonic regression fits their noise
_FOLDS = 5


@dataclass(frozen=True)
class Platt:
    """A logistic curve: probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float
    method: Literal["platt"] = "platt"

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Compute the probabilities (n,) of scores (n,)."""
        return expit(self.slope * np.asarray(scores, dtype=np.float64) + self.intercept)


@dataclass(frozen=True)
class Isotonic:
    """An ascending curve, linear between (k,) scores with (k,) probabilities and constant outside."""

    scores: list[float]
    probabilities: list[float]
    method: Literal["isotonic"] = "isotonic"

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Compute the probabilities (n,) of scores (n,)."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities)


Calibration = Platt | Isotonic


def fit_platt(scores: ArrayLike, matches: ArrayLike) -> Platt:
    """Fit a logistic curve by maximum likelihood, with Platt's targets, which avoid certainty.

    With N+ matches and N- other pairs, the target is (N+ + 1) / (N+ + 2) for a match and 1 / (N- + 2) for another pair.
    A decreasing curve, if higher scores match less often, is replaced by a constant, the mean of these targets.

    Args:
        scores: (n,) finite numbers.
        matches: (n,) booleans.

    Returns:
        The curve.

    Reference: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; Lin, Lin and Weng, "A Note on Platt's
        Probabilistic Outputs for Support Vector Machines", 2007.
    """
    scores, matches = np.asarray(scores, dtype=np.float64), np.asarray(matches, dtype=bool)
    positives, negatives = int(matches.sum()), int((~matches).sum())
    targets = np.where(matches, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    center, spread = float(scores.mean()), float(scores.std())
    level = Platt(0.0, float(logit(targets.mean())))
    if spread == 0:
        return level
    x = (scores - center) / spread

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = parameters[0] * x + parameters[1]
        error = expit(z) - targets
        value = -(targets * log_expit(z) + (1 - targets) * log_expit(-z)).mean()
        return float(value), np.array([(error * x).mean(), error.mean()])

    def curvature(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(parameters[0] * x + parameters[1])
        weight = p * (1 - p)
        mixed = (weight * x).mean()
        return np.array([[(weight * x * x).mean(), mixed], [mixed, weight.mean()]])

    start = np.array([0.0, level.intercept])
    slope, intercept = minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10}).x
    if slope <= 0:
        return level
    return Platt(float(slope / spread), float(intercept - slope * center / spread))


def fit_isotonic(scores: ArrayLike, matches: ArrayLike) -> Isotonic:
    """Fit the ascending curve of least squared error; no probability is closer to 0 or 1 than 1 / (n + 2).

    Args:
        scores: (n,) finite numbers, n >= 1.
        matches: (n,) booleans.

    Returns:
        The curve, reduced to its corners.

    Reference: Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates",
        2002.
    """
    scores, matches = np.asarray(scores, dtype=np.float64), np.asarray(matches, dtype=bool)
    distinct, group = np.unique(scores, return_inverse=True)  # equal scores get one probability
    sizes = np.bincount(group)
    means = np.bincount(group, weights=matches) / sizes
    fitted = isotonic_regression(means, weights=sizes).x
    fitted = fitted.clip(1 / (len(scores) + 2), 1 - 1 / (len(scores) + 2))
    # only the ends of a constant stretch matter
    corner = np.ones(len(fitted), dtype=bool)
    corner[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return Isotonic(distinct[corner].tolist(), fitted[corner].tolist())


def fit_calibration(
    scores: ArrayLike, matches: ArrayLike, clusters: ArrayLike, method: CalibrationMethod = "auto", seed: int = 0
) -> Calibration | None:
    """Fit the probability that a pair matches, given its score.

    Args:
        scores: (n,) finite numbers.
        matches: (n,) booleans.
        clusters: (n,) ids that are equal for pairs that depend on each other; they are put into the same fold.
        method: "platt", "isotonic" or "none"; "auto": isotonic if there are 1,000 pairs or more and its Brier score in
            five-fold cross-validation is lower than Platt's, else Platt.
        seed: seed of the folds.

    Returns:
        The curve; None for "none", or if all pairs match or none does.
    """
    scores, matches = np.asarray(scores, dtype=np.float64), np.asarray(matches, dtype=bool)
    if method == "none" or matches.all() or not matches.any():
        return None
    if method == "isotonic":
        return fit_isotonic(scores, matches)
    if method == "auto" and len(scores) >= ENOUGH_FOR_ISOTONIC:
        errors = _cross_validated_errors(scores, matches, np.asarray(clusters), seed)
        if errors["isotonic"] < errors["platt"]:
            return fit_isotonic(scores, matches)
    return fit_platt(scores, matches)


def _cross_validated_errors(scores: NDArray, matches: NDArray, clusters: NDArray, seed: int) -> dict[str, float]:
    """Compute each method's total squared error on pairs that it was not fitted on."""
    _, cluster = np.unique(clusters, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(cluster.max() + 1)[cluster] % _FOLDS
    errors = dict.fromkeys(("platt", "isotonic"), 0.0)
    for number in range(_FOLDS):
        out = fold == number
        for name, fit in (("platt", fit_platt), ("isotonic", fit_isotonic)):
            if out.any() and not out.all():
                errors[name] += float(np.square(fit(scores[~out], matches[~out])(scores[out]) - matches[out]).sum())
    return errors
