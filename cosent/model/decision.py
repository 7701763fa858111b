"""The threshold and calibration that a checkpoint stores."""

from dataclasses import dataclass
from itertools import pairwise

from cosent.calibration import Calibration, Isotonic, Platt
from cosent.model.stored import Stored

_MOST = 1.001  # the largest cosine with rounding, and a threshold just above it that nothing reaches


@dataclass
class Decision:
    """The threshold and calibration that decide whether two texts match, and the data they were fitted on.

    Attributes:
        threshold: a pair matches if its cosine is at or above this value.
        metric: the criterion that the threshold optimises.
        value: the criterion's value on the pairs used for choosing the threshold.
        calibrated_on: the file of those pairs.
        num_pairs: the number of those pairs.
        positive_label_min: the lowest label that counted as a match; None for 0/1 labels.
        calibration: maps a score to the probability of a match; None if nothing was fitted.
    """

    threshold: float
    metric: str
    value: float
    calibrated_on: str
    num_pairs: int
    positive_label_min: float | None = None
    calibration: Calibration | None = None


def read_decision(stored: Stored) -> Decision:
    """Read a decision written with `dataclasses.asdict`; additional values from later versions are ignored.

    Args:
        stored: the stored values.

    Raises:
        CheckpointError: if a value is missing, of another type or out of range.
    """
    return Decision(
        threshold=stored.number("threshold", -_MOST, _MOST),
        metric=stored.text("metric"),
        value=stored.number("value"),
        calibrated_on=stored.text("calibrated_on"),
        num_pairs=stored.whole("num_pairs"),
        positive_label_min=stored.number("positive_label_min") if "positive_label_min" in stored else None,
        calibration=_read_calibration(stored.table("calibration")) if "calibration" in stored else None,
    )


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
