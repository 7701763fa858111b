"""From a score to the probability that two texts match.

Shapes: n pairs, k knots.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit, logit

CalibrationMethod = Literal["auto", "platt", "isotonic", "none"]

ENOUGH_FOR_ISOTONIC = 1_000  # pairs; with fewer a free curve follows their noise
_FOLDS = 5


@dataclass(frozen=True)
class Platt:
    """A logistic curve: probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float
    method: Literal["platt"] = "platt"

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n,) of scores (n,)."""
        return expit(self.slope * np.asarray(scores, dtype=np.float64) + self.intercept)


@dataclass(frozen=True)
class Isotonic:
    """The ascending curve through (k,) scores and their (k,) probabilities, straight between them, level outside."""

    scores: list[float]
    probabilities: list[float]
    method: Literal["isotonic"] = "isotonic"

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n,) of scores (n,)."""
        return np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities)


Calibration = Platt | Isotonic


def from_json(stored: dict[str, Any] | None) -> Calibration | None:
    """A calibration by its method and numbers, as `dataclasses.asdict` gives them; None where there are none."""
    if stored is None:
        return None
    if stored["method"] == "platt":
        return Platt(float(stored["slope"]), float(stored["intercept"]))
    return Isotonic([float(x) for x in stored["scores"]], [float(x) for x in stored["probabilities"]])


def fit_platt(scores: ArrayLike, matches: ArrayLike) -> Platt:
    """Fit a logistic curve by maximum likelihood, with Platt's targets, which keep it from certainty.

    Of N+ matches and N- others, a match aims at (N+ + 1) / (N+ + 2) and another at 1 / (N- + 2). A curve that would
    fall, where higher scores are less often a match, becomes a level one at the mean of these targets.

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
    """Fit the ascending curve of least squared error; no probability is nearer to 0 or 1 than 1 / (n + 2).

    Args:
        scores: (n,) finite numbers, n >= 1.
        matches: (n,) booleans.

    Returns:
        The curve, by the corners that it needs.

    Reference: Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates",
        2002.
    """
    scores, matches = np.asarray(scores, dtype=np.float64), np.asarray(matches, dtype=bool)
    distinct, group = np.unique(scores, return_inverse=True)  # equal scores get one probability
    sizes = np.bincount(group)
    means = np.bincount(group, weights=matches) / sizes
    fitted = isotonic_regression(means, weights=sizes).x
    fitted = fitted.clip(1 / (len(scores) + 2), 1 - 1 / (len(scores) + 2))
    # within a level stretch only its ends matter
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
        clusters: (n,) equal for pairs that depend on each other: they are in the same fold.
        method: "platt", "isotonic", "none"; "auto": from 1,000 pairs on isotonic, if in a cross-validation with five
            folds its Brier score is lower than Platt's, else Platt.
        seed: of the folds.

    Returns:
        The curve; None for "none", and where all pairs match or none does.
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
    """The Brier score of each method on pairs that it was not fitted on."""
    _, cluster = np.unique(clusters, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(cluster.max() + 1)[cluster] % _FOLDS
    errors = dict.fromkeys(("platt", "isotonic"), 0.0)
    for number in range(_FOLDS):
        out = fold == number
        for name, fit in (("platt", fit_platt), ("isotonic", fit_isotonic)):
            if out.any() and not out.all():
                errors[name] += float(np.square(fit(scores[~out], matches[~out])(scores[out]) - matches[out]).sum())
    return errors
