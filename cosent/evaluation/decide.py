"""The threshold and the probabilities that a model is given, from pairs whose truth is known."""

from cosent.calibration import CalibrationMethod, fit_calibration
from cosent.evaluation.metrics import decision
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions
from cosent.model.checkpoint import Decision

_FEW_PAIRS = 10


def decide(
    pairs: ScoredPairs,
    calibrated_on: str,
    *,
    threshold_metric: str | None = None,
    calibration: CalibrationMethod = "auto",
    positive_label_min: float | None = None,
    seed: int = 0,
) -> Decision | None:
    """Choose a threshold, and fit probabilities.

    Args:
        pairs: n pairs and their scores.
        calibrated_on: the file that they are from, to be remembered.
        threshold_metric: what the threshold is to be best at, see `ThresholdMetric.parse`. None: accuracy.
        calibration: how scores become probabilities, see `fit_calibration`.
        positive_label_min: labels from here on were taken as a match, to be remembered.
        seed: of the folds that `fit_calibration` may compare by.

    Returns:
        What a checkpoint stores; None where labels do not say what matches, or say that of all pairs or of none.

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
    """Say what a threshold attains on pairs whose truth is known, and whether that rests on too few of them.

    Args:
        pairs: those that it was chosen on, mostly.
        chosen: the threshold.

    Returns:
        A line; a second one where fewer than ten pairs are on one side of it, or of the truth.
    """
    assert pairs.matches is not None  # else nothing could have been chosen
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
