"""Chooses a model's threshold and fits its calibration, on pairs with known labels."""

from dataclasses import dataclass

from cosent.calibration import CalibrationMethod, fit_calibration
from cosent.evaluation.metrics import decision
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions
from cosent.model.decision import Decision

_FEW_PAIRS = 10


@dataclass(frozen=True)
class DecisionOptions:
    """How a threshold is chosen and a calibration fitted.

    Attributes:
        threshold_metric: the criterion for the threshold, in the notation of `ThresholdMetric.parse`. None: accuracy.
        calibration: how scores become probabilities: "platt", "isotonic", "auto" or "none".
        seed: seed of the folds in `fit_calibration`.
    """

    threshold_metric: str | None = None
    calibration: CalibrationMethod = "auto"
    seed: int = 0


def decide(
    pairs: ScoredPairs,
    calibrated_on: str,
    *,
    threshold_metric: str | None = None,
    calibration: CalibrationMethod = "auto",
    positive_label_min: float | None = None,
    seed: int = 0,
) -> Decision | None:
    """Choose a threshold and fit a calibration.

    Args:
        pairs: n scored pairs.
        calibrated_on: the file of these pairs, to be stored.
        threshold_metric: the criterion for the threshold, in the notation of `ThresholdMetric.parse`. None: accuracy.
        calibration: how scores become probabilities: "platt", "isotonic", "auto" or "none".
        positive_label_min: the lowest label that counted as a match, to be stored.
        seed: seed of the folds in `fit_calibration`.

    Returns:
        The decision that a checkpoint stores; None if the labels do not say what matches, or all pairs match, or none.

    Raises:
        UserError: if the metric is unknown.
    """
    metric = ThresholdMetric.parse(threshold_metric or "accuracy")
    if pairs.matches is None or pairs.matches.all() or not pairs.matches.any():
        return None
    value, threshold = metric.choose(attainable_decisions(pairs.scores, pairs.matches))
    return Decision(
        threshold=threshold,
        metric=metric.name,
        value=value,
        calibrated_on=calibrated_on,
        num_pairs=len(pairs.scores),
        positive_label_min=positive_label_min,
        calibration=fit_calibration(pairs.scores, pairs.matches, pairs.clusters, calibration, seed),
    )


def describe_decision(pairs: ScoredPairs, chosen: Decision) -> str:
    """Describe what a threshold attains on labelled pairs, and warn if that rests on too few of them.

    Args:
        pairs: labelled pairs, usually those that the threshold was chosen on.
        chosen: the threshold.

    Returns:
        One line, and a second one if fewer than ten pairs match or not, by the threshold or in truth.
    """
    assert pairs.matches is not None  # otherwise no threshold could have been chosen
    found = decision(pairs.scores, pairs.matches, chosen.threshold)
    line = ", ".join(f"{name} {found[name]:.4f}" for name in ("accuracy", "precision", "recall"))
    said = int((pairs.scores >= chosen.threshold).sum())
    fewest = min(said, len(pairs.scores) - said, int(pairs.matches.sum()), int((~pairs.matches).sum()))
    if fewest >= _FEW_PAIRS:
        return line
    return (
        f"{line}\nThat rests on few pairs: of {len(pairs.scores):,}, {said:,} are said to match, and "
        f"{int(pairs.matches.sum()):,} do"
    )
