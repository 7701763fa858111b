"""The metrics before and after training, side by side, for the console and the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cosent.evaluation.evaluators import Evaluation

CHOSEN_HERE = "*"  # marks a value that was chosen on the very data it is reported on

CHOSE_THRESHOLD = (
    "The stored threshold was chosen on this very data and, if it was the eval data of training, so was the step that "
    "was kept: no figure here is a forecast for other data"
)

# The metrics whose threshold is chosen on the evaluated data itself.
OWN_THRESHOLD = ("best_accuracy", "best_threshold", "best_f1", "best_f1_threshold")

_SHOWN = (
    *("spearman", "pearson", "average_precision", "roc_auc", "best_accuracy", "accuracy", "f1", "mcc", "ece", "brier"),
    *("triplet_accuracy", "mean_margin", "recall_at_1", "recall_at_10", "mrr"),
    *("nn_accuracy", "knn_accuracy", "map_at_r"),
    *("alignment", "uniformity", "alignment_plus_uniformity", "effective_rank"),
)
_BY_EVAL_THRESHOLD = ("accuracy", "f1", "mcc")


@dataclass(frozen=True)
class Change:
    """A metric before and after training.

    Attributes:
        split: "eval", "eval_<name>" or "test".
        metric: the metric's name.
        before: its value before training; nan if it was not computed.
        after: its value after training.
        interval: the interval of the value after training, if there is one.
        is_chosen_here: whether the step or the threshold behind the value was chosen on this very data.
    """

    split: str
    metric: str
    before: float
    after: float
    interval: tuple[float, float] | None
    is_chosen_here: bool

    @property
    def title(self) -> str:
        """The name of the row."""
        of_threshold = " by eval threshold" if self.metric in _BY_EVAL_THRESHOLD else ""
        return f"{self.split.replace('_', ' ')} {self.metric.replace('_', ' ')}{of_threshold}"


def changes(
    before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], *, selecting: str | None
) -> list[Change]:
    """Compare evaluations before and after training.

    Args:
        before: the evaluations of the untouched model, by split.
        after: those of the trained model.
        selecting: the split that chose the kept step, the best of several. None: none did.

    Returns:
        A row for each metric shown, split by split.
    """
    return [
        Change(
            split,
            metric,
            before[split].metrics.get(metric, math.nan),
            result.metrics[metric],
            result.intervals.get(metric),
            metric in OWN_THRESHOLD or split == selecting,
        )
        for split, result in after.items()
        for metric in _SHOWN
        if metric in result.metrics
    ]


def chosen_note(rows: Sequence[Change]) -> str:
    """Explain the marked values; "" if there are none."""
    reasons = []
    if any(row.is_chosen_here and row.metric not in OWN_THRESHOLD for row in rows):
        reasons.append("the eval data chose the step that was kept")
    if any(row.metric in OWN_THRESHOLD for row in rows):
        reasons.append("a best accuracy is that of the threshold which suits the same data best")
    if not reasons:
        return ""
    return f"{CHOSEN_HERE} chosen on the very data it is reported on, so no forecast: {'; '.join(reasons)}"
