"""Time of the metrics of n scored pairs with 0/1 labels, beside sentence-transformers and scikit-learn.

    python benchmarks/metrics_scaling.py [--max_exponent 6] [--max_seconds 10]

"thresholds" looks for the thresholds of the best accuracy and the best F1; "decisions" is everything that an evaluation
says about decisions: those two, average precision, ROC AUC, and precision, recall, F1 and Matthews' correlation at a
threshold; "correlations" are Spearman's and Pearson's. Each side computes what it has of them: scikit-learn finds no
threshold of the best accuracy, sentence-transformers no ROC AUC, and its correlations are scipy's.

Scores are random, in float32 as a model gives them, with ties. Times are the best of several runs of each side, taken
in turns. A peer that is likely to take longer than `--max_seconds`, going by the sizes before, is not run: "-". The
last column is the largest difference between a figure of ours and the same figure of another side.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from measuring import in_turns, machine, table
from numpy.typing import NDArray
from scipy import stats
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import average_precision_score, matthews_corrcoef

from cosent.evaluation.metrics import best_decisions, correlations, decision
from cosent.evaluation.threshold import attainable_decisions

Figures = dict[str, float]
Side = Callable[[NDArray[np.float32], NDArray[np.int64]], Figures]

SMALLEST = 3  # 10**3 pairs
STEP = 10
REPEATS, REPEATS_SECONDS = 5, 5.0  # slow sides run fewer times than that, once at least
HEADER = [
    "metrics",
    "pairs",
    "ours, ms",
    "sentence-transformers, ms",
    "ratio",
    "scikit-learn, ms",
    "ratio",
    "difference",
]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_exponent", type=int, default=7, help="most pairs, as a power of 10")
    parser.add_argument("--max_seconds", type=float, default=300.0, help="time of one run of a peer")
    args = parser.parse_args()
    print(f"{machine('cpu')}\n")
    last: dict[str, list[float]] = {}
    rows = []
    for exponent in range(SMALLEST, args.max_exponent + 1):
        pairs = scored_pairs(STEP**exponent)
        for name, sides in METRICS.items():
            ours, *others = zip(sides, last.get(name, [0.0] * len(sides)), strict=True)
            running = [side if STEP * before <= args.max_seconds else None for side, before in others]
            last[name], difference = measure([ours[0], *running], pairs)
            rows.append([name, f"{len(pairs[0]):,}", *cells(last[name]), f"{difference:.1e}"])
    print(table(HEADER, sorted(rows, key=lambda row: list(METRICS).index(row[0]))))


def scored_pairs(size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores (n,) in [-1, 1] and labels (n,), of which about 3 in 10 are 1."""
    random = np.random.default_rng(0)
    labels = (random.random(size) < 0.3).astype(np.int64)
    scores = np.tanh(random.normal(0.5 * labels, 0.5)).astype(np.float32)
    ties = random.random(size) < 0.1
    return np.where(ties, scores.round(2), scores), labels


def our_thresholds(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """The search alone."""
    decisions = attainable_decisions(scores, labels)
    accuracy, threshold = decisions.best(decisions.values("accuracy"))
    f1, f1_threshold = decisions.best(decisions.values("f1"))
    return {"accuracy": accuracy, "accuracy_threshold": threshold, "f1": f1, "f1_threshold": f1_threshold}


def peer_thresholds(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """What sentence-transformers' evaluator searches for."""
    accuracy, threshold = BinaryClassificationEvaluator.find_best_acc_and_threshold(scores, labels, True)
    f1, precision, recall, f1_threshold = BinaryClassificationEvaluator.find_best_f1_and_threshold(scores, labels, True)
    figures = {"accuracy": accuracy, "accuracy_threshold": threshold, "f1": f1, "f1_threshold": f1_threshold}
    return {**figures, "precision": precision, "recall": recall}


def sklearn_thresholds(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """The best F1 of the precision-recall curve."""
    return {"f1": best_of_curve(scores, labels)[0]}


def best_of_curve(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """The best F1 of the precision-recall curve, and the lowest score that it calls a match."""
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(labels, scores, drop_intermediate=False)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def our_decisions(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """Figures of a whole evaluation, with the threshold of the best F1 as the given one."""
    best = best_decisions(scores, labels)
    given = decision(scores.astype(np.float64), labels, best["best_f1_threshold"])
    figures = {"accuracy": best["best_accuracy"], "accuracy_threshold": best["best_threshold"]}
    return {**best, **given, **figures, "f1_threshold": best["best_f1_threshold"]}


def peer_decisions(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """As `BinaryClassificationEvaluator.compute_metrics` does once it has the scores."""
    figures = peer_thresholds(scores, labels)
    said = scores >= figures["f1_threshold"]
    average_precision, mcc = average_precision_score(labels, scores), matthews_corrcoef(labels, said)
    return {**figures, "average_precision": average_precision, "mcc": mcc}


def sklearn_decisions(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """What scikit-learn has of the figures of an evaluation."""
    f1, threshold = best_of_curve(scores, labels)
    said = scores >= threshold
    return {
        "f1": f1,
        "average_precision": average_precision_score(labels, scores),
        "roc_auc": sklearn_metrics.roc_auc_score(labels, scores),
        "precision": sklearn_metrics.precision_score(labels, said),
        "recall": sklearn_metrics.recall_score(labels, said),
        "mcc": matthews_corrcoef(labels, said),
    }


def peer_correlations(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Figures:
    """As `EmbeddingSimilarityEvaluator` does once it has the scores."""
    return {"spearman": stats.spearmanr(labels, scores)[0], "pearson": stats.pearsonr(labels, scores)[0]}


# ours, sentence-transformers', scikit-learn's
METRICS: dict[str, list[Side | None]] = {
    "thresholds": [our_thresholds, peer_thresholds, sklearn_thresholds],
    "decisions": [our_decisions, peer_decisions, sklearn_decisions],
    "correlations": [correlations, peer_correlations, None],
}


def measure(
    sides: list[Side | None], pairs: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> tuple[list[float], float]:
    """Time each side on the same pairs.

    Args:
        sides: ours, and the others; None for one that is not run.
        pairs: scores and labels.

    Returns:
        Seconds of each side, infinite for one that is not run, and the largest difference of any from the first.
    """
    figures: dict[int, Figures] = {}

    def run(place: int, side: Side) -> None:
        figures[place] = side(*pairs)

    runs = {place: partial(run, place, side) for place, side in enumerate(sides) if side is not None}
    first = in_turns(list(runs.values()), 1)
    repeats = min(REPEATS, int(REPEATS_SECONDS / max(once for [once] in first)))
    more = in_turns(list(runs.values()), repeats)
    seconds = dict(zip(runs, map(min, map(list.__add__, first, more)), strict=True))
    ours = figures[0]
    same = (
        (float(ours[name]), float(other[name])) for other in figures.values() for name in ours.keys() & other.keys()
    )
    return [seconds.get(place, np.inf) for place in range(len(sides))], max(abs(one - two) for one, two in same)


def cells(seconds: list[float]) -> list[str]:
    """Milliseconds of each side, and of the others the ratio to the first."""
    ours, *others = seconds
    shown = [f"{ours * 1e3:,.2f}"]
    for other in others:
        shown += [f"{other * 1e3:,.2f}", f"{other / ours:.1f}"] if np.isfinite(other) else ["-", "-"]
    return shown


if __name__ == "__main__":
    main()
