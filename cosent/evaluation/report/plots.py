"""Plots of an evaluation and of a training run, with matplotlib, an optional dependency.

Plots show only numbers, no texts of the data, so that they need no font for its language.

Shapes: n pairs, m decisions.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosent.evaluation.evaluators import is_lower_better
from cosent.evaluation.metrics import NUM_BINS, calibration_bins
from cosent.evaluation.report.changes import CHOSEN_HERE, OWN_THRESHOLD
from cosent.evaluation.report.tables import metric_title
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.threshold import attainable_decisions

MATCH, OTHER, BETWEEN, LINE = "#1b7f5c", "#c2512f", "#8a8a8a", "#444444"

Curve = Sequence[tuple[float, float]]  # (step, value)

_MOST_POINTS = 2_000  # points in a curve; more would not be visible
_SHOWN_SCORES = (0.005, 0.995)  # quantiles between which, and a little beyond, a histogram shows scores


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw_pairs(pairs: ScoredPairs) -> dict[str, bytes]:
    """Draw the plots of scored pairs.

    Args:
        pairs: n scored pairs.

    Returns:
        PNG files by name: "scores" by label; if labels say what matches, "precision_recall" and "roc"; with
        probabilities, "reliability".
    """
    draws: dict[str, Callable[[Any, ScoredPairs], None]] = {"scores": _scores}
    if pairs.matches is not None and pairs.matches.any() and not pairs.matches.all():
        draws |= {"precision_recall": _precision_recall, "roc": _roc}
        if pairs.probabilities is not None:
            draws["reliability"] = _reliability
    return {name: _picture(draw, pairs) for name, draw in draws.items()}


def draw_percentiles(before: NDArray[np.float64], after: NDArray[np.float64]) -> bytes:
    """Draw the percentiles of the scores before and after fine-tuning.

    Args:
        before: (n,) scores of the base model.
        after: (n,) scores of the fine-tuned model.

    Returns:
        A PNG file.
    """

    def draw(axes: Any) -> None:
        percent = np.linspace(0, 100, 101)
        axes.plot(percent, np.percentile(before, percent), color=OTHER, linestyle="--", label="before fine-tuning")
        axes.plot(percent, np.percentile(after, percent), color=MATCH, label="after")
        axes.set(xlabel="percentile of pairs", ylabel="score", title="Scores before and after fine-tuning")
        axes.legend()

    return _picture(draw)


def is_metric(name: str) -> bool:
    """Tell whether a name in the Trainer's logs is a quality metric of the eval data, not a time or a count."""
    is_other = name.endswith(("_runtime", "_per_second", "_seconds", "_n", "_num_queries"))
    return name.startswith("eval_") and not is_other


def draw_history(log_history: Sequence[dict[str, float]], kept_step: int | None = None) -> dict[str, bytes]:
    """Draw the curves of a training run.

    Args:
        log_history: the Trainer's logs, each with a "step".
        kept_step: the step whose model was kept; marked in the curves.

    Returns:
        PNG files by name: "loss", "learning_rate", "eval" with the metrics that lie between -1 and 1, and "geometry"
        with alignment and uniformity.
    """
    curves = {
        name: [(log["step"], log[name]) for log in log_history if name in log]
        for name in dict.fromkeys(name for log in log_history for name in log)
    }
    of_eval = {name.removeprefix("eval_"): points for name, points in curves.items() if is_metric(name)}
    wanted: dict[str, tuple[str, Mapping[str, Curve]]] = {
        "loss": ("Training loss", {"loss": curves.get("loss", [])}),
        "learning_rate": ("Learning rate", {"learning rate": curves.get("learning_rate", [])}),
        "eval": ("Metrics on the eval data (higher is better)", _bounded_metrics(of_eval)),
        "geometry": (
            "Alignment and uniformity (lower is better)",
            {name: points for name, points in of_eval.items() if is_lower_better(name)},
        ),
    }
    return {
        name: _picture(_lines, title, lines, kept_step)
        for name, (title, lines) in wanted.items()
        if any(lines.values())
    }


def _bounded_metrics(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Select the curves of metrics between -1 and 1, so that one axis fits them all."""
    return {
        name: points
        for name, points in curves.items()
        if not name.endswith("_threshold")
        and not is_lower_better(name)
        and all(-1 <= value <= 1 for _, value in points)
    }


def _lines(axes: Any, title: str, lines: Mapping[str, Curve], kept_step: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=_curve_title(name))
    if kept_step is not None:
        axes.axvline(kept_step, color=LINE, linestyle="--", linewidth=1, label=f"kept: step {kept_step:,}")
    axes.set(xlabel="step", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 1 or kept_step is not None:
        axes.figure.legend(fontsize="small", loc="outside lower center", ncols=3, frameon=False)


def _curve_title(metric: str) -> str:
    return f"{metric_title(metric)}{CHOSEN_HERE if metric in OWN_THRESHOLD else ''}"


def _picture(draw: Callable[..., None], *what: Any) -> bytes:
    """Draw into new axes and return a PNG file, without a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, *what)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _scores(axes: Any, pairs: ScoredPairs) -> None:
    low, high = _cropped(pairs.scores)
    shown = pairs.scores.clip(low, high)
    for name, (chosen, color) in _groups(pairs).items():
        axes.hist(
            shown[chosen], np.linspace(low, high, 41), alpha=0.55, color=color, label=f"{name} ({chosen.sum():,})"
        )
    num_outside = int(np.count_nonzero(shown != pairs.scores))
    outside = f"; the outermost bars include {num_outside:,} pairs beyond" if num_outside else ""
    if pairs.threshold is not None:
        _mark_threshold(axes, pairs.threshold, low, high)
    axes.set(xlabel=f"score (cosine){outside}", ylabel="pairs")
    axes.set_title("Scores by label", pad=18)  # above the threshold's value
    axes.legend(fontsize="small")


def _cropped(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the range in which all scores lie, but for at most 1% that are far away from the others."""
    low, high = np.quantile(scores, _SHOWN_SCORES)
    space = max(0.5 * (high - low), 0.005)  # all scores may be the same
    return float(max(scores.min(), low - space)) - 1e-6, float(min(scores.max(), high + space)) + 1e-6


def _mark_threshold(axes: Any, threshold: float, low: float, high: float) -> None:
    """Draw a line with the value above it; a threshold outside the range is named at the end where it lies."""
    if low <= threshold <= high:
        axes.axvline(threshold, color=LINE, linestyle="--", label="stored threshold")
        place, what = threshold, f"{threshold:.4f}"
    else:
        axes.plot([], [], color=LINE, linestyle="--", label="stored threshold, beyond the scores")
        place, what = (low, f"← {threshold:.4f}") if threshold < low else (high, f"{threshold:.4f} →")
    above = axes.get_xaxis_transform()
    axes.text(place, 1.01, what, transform=above, ha="center", va="bottom", fontsize="small", color=LINE)


def _groups(pairs: ScoredPairs) -> dict[str, tuple[NDArray[np.bool_], str]]:
    """Group pairs by label: for each group that has any, a (n,) boolean mask and a colour."""
    if pairs.matches is not None:
        groups = {"match": (pairs.matches, MATCH), "no match": (~pairs.matches, OTHER)}
    else:
        low, high = np.quantile(pairs.labels, [1 / 3, 2 / 3])
        groups = {
            f"labels to {low:g}": (pairs.labels <= low, OTHER),
            "between": ((pairs.labels > low) & (pairs.labels <= high), BETWEEN),
            f"labels above {high:g}": (pairs.labels > high, MATCH),
        }
    return {name: group for name, group in groups.items() if group[0].any()}


def _precision_recall(axes: Any, pairs: ScoredPairs) -> None:
    assert pairs.matches is not None
    decisions = attainable_decisions(pairs.scores, pairs.matches)
    some = _some(len(decisions.thresholds))[1:]  # "nothing matches" has no precision
    axes.plot(decisions.values("recall")[some], decisions.values("precision")[some], color=MATCH)
    share = pairs.matches.mean()
    axes.axhline(share, color=LINE, linestyle=":", label=f"by chance ({share:.2f})")
    if pairs.threshold is not None:
        precision, recall, _ = _at_threshold(pairs)
        axes.plot(recall, precision, "o", color=LINE, label="at the stored threshold")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize="small")


def _roc(axes: Any, pairs: ScoredPairs) -> None:
    assert pairs.matches is not None
    decisions = attainable_decisions(pairs.scores, pairs.matches)
    some = _some(len(decisions.thresholds))
    fall_out = decisions.false_positives / decisions.num_negatives
    axes.plot(fall_out[some], decisions.values("recall")[some], color=MATCH)
    axes.plot([0, 1], [0, 1], color=LINE, linestyle=":", label="by chance")
    if pairs.threshold is not None:
        _, recall, false_alarms = _at_threshold(pairs)
        axes.plot(false_alarms, recall, "o", color=LINE, label="at the stored threshold")
    axes.set(xlabel="false positive rate", ylabel="recall", title="ROC", xlim=(-0.02, 1), ylim=(0, 1.02))
    axes.legend(fontsize="small")


def _at_threshold(pairs: ScoredPairs) -> tuple[float, float, float]:
    """Compute precision, recall and false positive rate at the stored threshold."""
    assert pairs.matches is not None and pairs.threshold is not None
    said = pairs.scores >= pairs.threshold
    precision = float(pairs.matches[said].mean()) if said.any() else 1.0
    return precision, float(said[pairs.matches].mean()), float(said[~pairs.matches].mean())


def _reliability(axes: Any, pairs: ScoredPairs) -> None:
    assert pairs.matches is not None and pairs.probabilities is not None
    number = calibration_bins(pairs.probabilities)
    counts = np.bincount(number, minlength=NUM_BINS)
    filled = counts > 0
    said = np.bincount(number, pairs.probabilities, NUM_BINS)[filled] / counts[filled]
    happened = np.bincount(number, pairs.matches, NUM_BINS)[filled] / counts[filled]
    axes.plot([0, 1], [0, 1], color=LINE, linestyle=":", label="perfect")
    axes.scatter(said, happened, s=12 + 240 * counts[filled] / counts.max(), color=MATCH, alpha=0.7)
    axes.plot(said, happened, color=MATCH, linewidth=1, label="observed; larger with more pairs")
    axes.set(
        xlabel="stated probability", ylabel="share that match", title="Reliability", xlim=(0, 1), ylim=(-0.02, 1.02)
    )
    axes.legend(fontsize="small")


def _some(number: int) -> NDArray[np.int64]:
    """Select at most 2,000 indices below `number`, at even steps, including both ends."""
    return np.unique(np.linspace(0, number - 1, min(number, _MOST_POINTS)).round().astype(np.int64))
