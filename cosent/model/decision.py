"""The threshold and calibration that a checkpoint stores."""

from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

from cosent.calibration import Calibration, Isotonic, Platt
from cosent.errors import UserError
from cosent.model.quantization import PRECISIONS, Precision, check_precision, needs_ranges
from cosent.model.stored import Stored

_MOST = 1.001  # the largest cosine with rounding, and a threshold just above it that nothing reaches

BY_HAND = "set by hand"  # the metric of a threshold that nothing was optimised for


@dataclass
class Decision:
    """The threshold and calibration that decide whether two texts match, and the data they were fitted on.

    They hold for the embeddings that `encode` returns with this `precision`, `truncate_dim` and these `ranges`.

    Attributes:
        threshold: a pair matches if its cosine is at or above this value.
        metric: the criterion that the threshold optimises; "set by hand" if there is none.
        value: the criterion's value on the pairs used for choosing the threshold; None without a criterion.
        calibrated_on: the file of those pairs.
        num_pairs: the number of those pairs.
        positive_label_min: the lowest label that counted as a match; None for 0/1 labels.
        calibration: maps a score to the probability of a match; None if nothing was fitted.
        precision: the precision of the embeddings.
        truncate_dim: the number of first dimensions that were kept. None: the model's.
        ranges: for int8 and uint8, the smallest value of each dimension, then the largest.
    """

    threshold: float
    metric: str
    value: float | None
    calibrated_on: str
    num_pairs: int
    positive_label_min: float | None = None
    calibration: Calibration | None = None
    precision: Precision = "float32"
    truncate_dim: int | None = None
    ranges: list[list[float]] | None = None

    def __str__(self) -> str:
        origin = self.metric
        if self.metric != BY_HAND:
            origin = f"the best {self.metric} on {self.calibrated_on}, {self.num_pairs:,} pairs"
        kept = f", {self.truncate_dim} dimensions" if self.truncate_dim is not None else ""
        stored = f", {self.precision}" if self.precision != "float32" else ""
        return f"{self.threshold:.4f} ({origin}{kept}{stored})"


def decided_by_hand(threshold: Any) -> Decision:
    """Make the decision of a threshold that somebody chose, for float32 embeddings of the model's dimensions.

    Args:
        threshold: a cosine.

    Raises:
        UserError: if it is no number, or no cosine reaches it or all do.
    """
    if not isinstance(threshold, Real) or isinstance(threshold, bool):
        raise UserError(
            "a decision must be a cosine from -1 to 1, such as 0.7, a Decision, or None for no threshold; "
            f"got {threshold!r}"
        )
    if not -_MOST <= float(threshold) <= _MOST:  # false for nan
        raise UserError(f"a threshold must be a cosine from -1 to 1, such as 0.7; got {float(threshold):g}")
    return Decision(float(threshold), BY_HAND, None, calibrated_on="", num_pairs=0)


def read_decision(stored: Stored) -> Decision:
    """Read a decision written with `dataclasses.asdict`; additional values from later versions are ignored.

    Args:
        stored: the stored values; older checkpoints have no precision, which means float32 and the model's dimensions.

    Raises:
        CheckpointError: if a value is missing, of another type or out of range.
    """
    metric = stored.text("metric")
    precision = _read_precision(stored)
    return Decision(
        threshold=stored.number("threshold", -_MOST, _MOST),
        metric=metric,
        value=stored.number("value") if "value" in stored or metric != BY_HAND else None,
        calibrated_on=stored.text("calibrated_on"),
        num_pairs=stored.whole("num_pairs"),
        positive_label_min=stored.number("positive_label_min") if "positive_label_min" in stored else None,
        calibration=_read_calibration(stored.table("calibration")) if "calibration" in stored else None,
        precision=precision,
        truncate_dim=stored.whole("truncate_dim", least=1) if "truncate_dim" in stored else None,
        ranges=_read_ranges(stored) if needs_ranges(precision) else None,
    )


def _read_precision(stored: Stored) -> Precision:
    if "precision" not in stored:
        return "float32"
    if stored.text("precision") not in PRECISIONS:
        raise stored.error("precision", f"one of {', '.join(PRECISIONS)}")
    return check_precision(stored.text("precision"))


def _read_ranges(stored: Stored) -> list[list[float]]:
    rows = stored.values.get("ranges")
    if not isinstance(rows, list) or len(rows) != 2:
        raise stored.error("ranges", "a list of the smallest values and one of the largest")
    named = Stored(stored.path, {"ranges[0]": rows[0], "ranges[1]": rows[1]})
    low, high = (named.numbers(name) for name in named.values)
    if len(low) != len(high) or any(least > most for least, most in zip(low, high, strict=True)):
        raise stored.error("ranges", "two lists of one length, the smallest values before the largest")
    return [low, high]


def _read_calibration(stored: Stored) -> Calibration:
    method = stored.text("method")
    if method == "platt":
        return Platt(stored.number("slope", least=0), stored.number("intercept"))
    if method != "isotonic":
        raise stored.error("method", "platt or isotonic")
    scores = stored.numbers("scores", -_MOST, _MOST)
    probabilities = stored.numbers("probabilities", 0, 1)
    if not scores or len(scores) != len(probabilities):
        raise stored.error("probabilities", f"as many as there are scores ({len(scores)}), and at least one")
    for key, values in (("scores", scores), ("probabilities", probabilities)):
        if any(second < first for first, second in pairwise(values)):
            raise stored.error(key, "in ascending order")
    return Isotonic(scores, probabilities)
