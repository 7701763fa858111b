"""Signs that figures mean less than they seem to."""

import math

import numpy as np

from cosent.evaluation.evaluators import Evaluation

COLLAPSED_UNIFORMITY = -0.05  # texts lie within a mean squared distance of about 0.025: cosines of 0.99
COLLAPSED_RANK = 1.5
WIDE = 0.1  # of an interval
_FEW_CLUSTERS = 30
_LARGE_CLUSTER = 0.2
_WATCHED = ("spearman", "accuracy")


def warnings_of(result: Evaluation) -> list[str]:
    """What a reader of an evaluation should know before believing it.

    Args:
        result: of any format.

    Returns:
        A sentence each: constant scores, collapsed embeddings, labels that do not differ, intervals so wide that the
        data can hardly tell one model from another, too few clusters for an interval to be trusted.
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
    if np.ptp(pairs.scores) == 0:
        found.append(f"every score is {pairs.scores[0]:.4f}: correlations are undefined, and nothing is told apart")
    if pairs.matches is not None and (pairs.matches.all() or not pairs.matches.any()):
        which = "every pair matches" if pairs.matches.all() else "no pair matches"
        found.append(f"{which} in this data: accuracy says nothing here, and ROC-AUC is undefined")
    return found


def _of_intervals(result: Evaluation) -> list[str]:
    found = []
    for name in _WATCHED:
        low, high = result.intervals.get(name, (0.0, 0.0))
        if high - low > WIDE:
            found.append(
                f"{name} could be anywhere from {low:.3f} to {high:.3f}: {result.metrics['n']:,} pairs are too few to "
                "tell models apart whose figures differ by less"
            )
            break
    if result.intervals and result.pairs is not None:
        sizes = np.unique(result.pairs.clusters, return_counts=True)[1]
        if len(sizes) < _FEW_CLUSTERS or sizes.max() > _LARGE_CLUSTER * sizes.sum():
            found.append(
                f"intervals are not to be relied on: {sizes.sum():,} pairs hang together by shared texts in only "
                f"{len(sizes):,} groups, the largest of {sizes.max():,}"
            )
    return found
