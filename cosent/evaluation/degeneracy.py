"""Warnings about evaluations whose metrics mean less than they seem to."""

import math

import numpy as np
from numpy.typing import NDArray

from cosent.evaluation.bootstrap import FEWEST_CLUSTERS
from cosent.evaluation.evaluators import Evaluation

COLLAPSED_UNIFORMITY = -0.05  # texts lie within a mean squared distance of about 0.025: cosines of 0.99
COLLAPSED_RANK = 1.5
WIDE = 0.1  # an interval wider than this causes a warning
_FEW_CLUSTERS = 30
_LARGE_CLUSTER = 0.2
_CONSTANT = 1e-6  # float32 rounding between cosines of the same vectors
_WATCHED = ("spearman", "accuracy", "triplet_accuracy", "mrr", "knn_accuracy")


def warnings_of(result: Evaluation) -> list[str]:
    """List the reasons not to trust an evaluation.

    Args:
        result: an evaluation of any data format.

    Returns:
        A sentence for each problem: constant scores, collapsed embeddings, labels that are all the same, intervals too
        wide to tell models apart, too few clusters for reliable intervals.
    """
    return [*_of_embeddings(result.metrics), *_of_scores(result), *_of_intervals(result)]


def _of_embeddings(metrics: dict[str, float]) -> list[str]:
    uniformity, rank = metrics.get("uniformity", math.nan), metrics.get("effective_rank", math.nan)
    if uniformity > COLLAPSED_UNIFORMITY or (rank < COLLAPSED_RANK and metrics["n"] > 1):
        return [
            f"embeddings have collapsed: all texts lie at almost one point (uniformity {uniformity:.4f}, effective "
            f"rank {rank:.1f}), so cosines say little; a lower learning rate or larger batches may help"
        ]
    return []


def _of_scores(result: Evaluation) -> list[str]:
    pairs = result.pairs
    if pairs is None:
        return []
    found = []
    if np.ptp(pairs.scores) < _CONSTANT:
        found.append(f"every score is {pairs.scores[0]:.4f}: correlations mean nothing, and nothing is told apart")
    elif pairs.probabilities is not None and np.ptp(pairs.probabilities) == 0:
        found.append("on the data that chose the threshold, higher scores were not more often a match")
    if pairs.matches is not None and (pairs.matches.all() or not pairs.matches.any()):
        which = "every pair matches" if pairs.matches.all() else "no pair matches"
        found.append(f"{which} in this data: accuracy says nothing here, and ROC-AUC is undefined")
    return found


def _of_intervals(result: Evaluation) -> list[str]:
    if not result.intervals:
        return []
    found = []
    for name in _WATCHED:
        low, high = result.intervals.get(name, (math.nan, math.nan))
        if high - low > WIDE:
            found.append(
                f"{name} could be anywhere from {low:.3f} to {high:.3f}: {result.metrics['n']:,} examples are too few "
                "to tell models apart whose figures differ by less"
            )
            break
    level = [name for name, (low, high) in result.intervals.items() if low == high]
    if level:
        found.append(f"no example speaks against {', '.join(level)}, so that intervals have no width: more would")
    return found + (warnings_of_clusters(result.pairs.clusters) if result.pairs is not None else [])


def warnings_of_clusters(clusters: NDArray[np.int64]) -> list[str]:
    """Warn if there are too few clusters, or one is too large, for reliable intervals.

    Args:
        clusters: (n,) ids that are equal for pairs that share a text.

    Returns:
        One warning or none.
    """
    sizes = np.unique(clusters, return_counts=True)[1]
    if len(sizes) >= _FEW_CLUSTERS and sizes.max() <= _LARGE_CLUSTER * sizes.sum():
        return []
    what = "there are no intervals" if len(sizes) < FEWEST_CLUSTERS else "intervals are not to be relied on"
    return [
        f"{what}: {sizes.sum():,} pairs hang together by shared texts in only {len(sizes):,} groups, the largest of "
        f"{sizes.max():,}"
    ]
