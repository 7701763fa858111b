"""Chooses a model's threshold and fits its calibration, on pairs with known labels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cosent.calibration import CalibrationMethod, fit_calibration
from cosent.data.datasets import TextDataset, load_data
from cosent.data.sources import Data
from cosent.errors import UserError
from cosent.evaluation.evaluators import Evaluation, EvaluationOptions, evaluate
from cosent.evaluation.metrics import decision
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions
from cosent.model.decision import Decision
from cosent.model.encoder import SentenceBert
from cosent.model.quantization import Precision, check_precision, find_ranges, needs_ranges

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

    def __post_init__(self) -> None:
        ThresholdMetric.parse(self.threshold_metric or "accuracy")
        if self.calibration not in get_args(CalibrationMethod):
            known = ", ".join(get_args(CalibrationMethod))
            raise UserError(f"calibration must be one of {known}, got {self.calibration!r}")


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


def calibrate(
    model: SentenceBert,
    data: TextDataset | Data,
    *,
    metric: str | None = None,
    calibration: CalibrationMethod = "auto",
    positive_label_min: float | None = None,
    precision: Precision = "float32",
    truncate_dim: int | None = None,
    batch_size: int = 64,
) -> Decision:
    """Choose a model's threshold and fit its probabilities on labelled pairs, without training.

    The decision is set as `model.settings.decision`, so that `predict` follows it and `save_pretrained` stores it.

    Args:
        model: the model.
        data: a dataset of labelled pairs, or any source that `load_data` takes, like those that the model will be used
            on, and not its training data.
        metric: the criterion for the threshold: "accuracy" (the default), "f1", "mcc", "precision@0.9", ...
        calibration: how scores become probabilities: "platt", "isotonic", "auto" or "none".
        positive_label_min: the lowest label of a match. None: that of the model's present decision; 0/1 labels need
            none.
        precision: the precision of the embeddings that are compared, as in `encode`.
        truncate_dim: the number of first dimensions that are compared. None: the model's.
        batch_size: batch size in texts of 128 tokens.

    Returns:
        The decision.

    Raises:
        UserError: if labels do not say what matches, all pairs match or none does, or an argument is unknown.
        DataError: if the data cannot be used.
        TypeError: if the data is of a type that is not taken.
    """
    dataset = data if isinstance(data, TextDataset) else load_data(data, model, data_format="pairs")
    _, model.settings.decision = fit_decision(
        model,
        dataset,
        DecisionOptions(metric, calibration),
        positive_label_min=positive_label_min,
        precision=precision,
        truncate_dim=truncate_dim,
        batch_size=batch_size,
    )
    return model.settings.decision


def fit_decision(
    model: SentenceBert,
    dataset: TextDataset,
    options: DecisionOptions,
    *,
    positive_label_min: float | None = None,
    precision: Precision = "float32",
    truncate_dim: int | None = None,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> tuple[Evaluation, Decision]:
    """Do the work of `calibrate`, and also return the evaluation that it rests on; the model stays as it is."""
    if positive_label_min is None and model.settings.decision is not None:
        positive_label_min = model.settings.decision.positive_label_min
    evaluation = EvaluationOptions(batch_size, positive_label_min, show_progress_bar=show_progress_bar)
    result = evaluate(model, dataset, evaluation)
    if result.pairs is None:
        raise UserError(f"{dataset.name} holds {dataset.data_format}: a threshold is chosen on labelled pairs")
    if result.pairs.matches is None:
        raise UserError("labels are graded: positive_label_min says from which label on a pair matches")
    stored: dict[str, Any] = {}
    if precision != "float32" or truncate_dim is not None:
        stored = {"precision": check_precision(precision), "truncate_dim": truncate_dim}
        pairs: list[Any] = list(dataset.records.texts)
        if needs_ranges(precision):
            texts = [text for pair in pairs for text in pair]
            whole: Any = model.encode(texts, batch_size=batch_size, truncate_dim=truncate_dim)
            stored["ranges"] = find_ranges(whole).tolist()
        scores = model.pair_scores(pairs, batch_size=batch_size, **stored).astype(np.float64)
        scored = replace(result.pairs, scores=scores)
        result = replace(result, metrics=result.metrics | scored.metrics(), pairs=scored)
    assert result.pairs is not None
    chosen = decide(result.pairs, dataset.name, **vars(options), positive_label_min=positive_label_min)
    if chosen is None:
        raise UserError(f"{dataset.name}: all pairs match, or none does, so there is nothing to choose by")
    return result, replace(chosen, **stored)


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


def describe_probability(chosen: Decision, threshold: float | None = None) -> str:
    """Explain the probability of a pair whose score is at the threshold, which need not be 0.5.

    Args:
        chosen: the stored threshold and calibration.
        threshold: the threshold that is applied. None: the stored one.

    Returns:
        A sentence; "" without a calibration.
    """
    if chosen.calibration is None:
        return ""
    applied = chosen.threshold if threshold is None else threshold
    origin = f"is the best by {chosen.metric}" if applied == chosen.threshold else "was given"
    return (
        f"At the threshold of {applied:.4f} the probability is {float(chosen.calibration(applied)):.2f}. It need not "
        f"be 0.5: the threshold {origin}, and probabilities are fitted to the scores on their own."
    )


def is_chosen_on(chosen: Decision, path: str, num_pairs: int) -> bool:
    """Tell whether a threshold was chosen on the very pairs of a file.

    Args:
        chosen: the stored threshold.
        path: the file. It may have been named from another folder, so only its own name and its folder's are compared.
        num_pairs: the number of its pairs.
    """
    one, other = (Path(name).absolute().parts[-2:] for name in (chosen.calibrated_on, path))
    return one == other and chosen.num_pairs == num_pairs
