"""Confidence intervals of metrics, from a bootstrap over clusters of pairs.

Pairs that share a text are not independent: if one text is hard to embed, all its pairs tend to be wrong together. The
bootstrap therefore draws, with replacement, not pairs but connected components of the graph whose edges are the pairs.
All draws of a block are computed at once, from weights that count how often each pair was drawn.

Shapes: n pairs, C clusters, R resamples, r resamples in a block, m distinct scores, c bins of probability.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosent.evaluation.confusion import DECISION_METRICS
from cosent.evaluation.metrics import calibration_bins
from cosent.evaluation.scored import ScoredPairs

CONFIDENCE = 0.95
NUM_RESAMPLES = 1_000
FEWEST_CLUSTERS = 10  # fewer do not show how much clusters differ: with a single one, all draws are the same

_WEIGHTS_AT_ONCE = 1 << 22  # 32 MiB of float64; ranking makes a few copies of this size


def resampled_metrics(
    pairs: ScoredPairs, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of pairs on R bootstrap resamples of their clusters.

    Equal clusters and seeds give equal draws, so resamples of two models on the same pairs are paired.

    Args:
        pairs: n scored pairs and their clusters.
        num_resamples: number of resamples, R.
        seed: seed of the draws.

    Returns:
        (R,) values of each metric of `ScoredPairs.metrics` that is not optimised on these pairs; nan for draws that
        leave it undefined, and for all draws if there are fewer than ten clusters.

    Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; Field and Welsh, "Bootstrapping
        Clustered Data", 2007 (the cluster bootstrap).
    """
    statistics = [_correlations(pairs.scores, pairs.labels)]
    if pairs.matches is not None:
        statistics.append(_areas(pairs.scores, pairs.matches))
        if pairs.threshold is not None:
            statistics.append(_decision(pairs.scores >= pairs.threshold, pairs.matches))
        if pairs.probabilities is not None:
            statistics.append(_calibration(pairs.probabilities, pairs.matches))
    if pairs.compute_metrics is not None:
        statistics.append(_own(pairs))
    _, cluster = np.unique(pairs.clusters, return_inverse=True)
    blocks: list[dict[str, NDArray[np.float64]]] = []
    for draws in _draws(int(cluster.max()) + 1, num_resamples, max(1, _WEIGHTS_AT_ONCE // len(cluster)), seed):
        weights = draws[:, cluster]  # (r, n)
        blocks.append({name: values for statistic in statistics for name, values in statistic(weights).items()})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def resampled_means(
    values: Mapping[str, NDArray[np.float64]],
    clusters: NDArray[np.int64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Compute means on R bootstrap resamples of clusters.

    Args:
        values: (n,) numbers by name; nan values are ignored.
        clusters: (n,) ids that are equal for values that depend on each other.
        num_resamples: number of resamples, R.
        seed: seed of the draws.

    Returns:
        (R,) means by name; nan for draws without values, and for all draws if there are fewer than ten clusters.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    num_clusters = int(cluster.max()) + 1 if len(cluster) else 0
    sums = {}  # (C, 2) by name: the sum and the count of each cluster's numbers
    for name, numbers in values.items():
        known = np.isfinite(numbers)
        count = np.bincount(cluster[known], minlength=num_clusters)
        sums[name] = np.stack([np.bincount(cluster[known], numbers[known], num_clusters), count], axis=1)
    means: dict[str, list[NDArray[np.float64]]] = {name: [] for name in values}
    for draws in _draws(num_clusters, num_resamples, max(1, _WEIGHTS_AT_ONCE // max(num_clusters, 1)), seed):
        for name, cluster_sums in sums.items():
            total, number = (draws @ cluster_sums).T
            means[name].append(np.where(number > 0, total / np.where(number > 0, number, 1), np.nan))
    return {name: np.concatenate(parts) for name, parts in means.items()}


def interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Compute the percentile interval of a bootstrap.

    Args:
        values: (R,) values of a metric; nan values are ignored.
        confidence: share of the values that lie inside the interval.

    Returns:
        Both ends of the interval; nan if no value is defined.
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return float("nan"), float("nan")
    low, high = np.quantile(numbers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def intervals(resamples: Mapping[str, ArrayLike]) -> dict[str, tuple[float, float]]:
    """Compute the interval of each metric of `resampled_metrics` except "ece", which resampling inflates."""
    return {name: interval(values) for name, values in resamples.items() if name != "ece"}


def _draws(num_clusters: int, num_resamples: int, at_once: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield (r, C) counts of how often each cluster was drawn; the block size does not change the draws."""
    generator = np.random.default_rng(seed)
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        if num_clusters < FEWEST_CLUSTERS:
            yield np.full((size, num_clusters), np.nan)
            continue
        drawn = generator.integers(num_clusters, size=(size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        yield np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters).astype(np.float64)


_Statistic = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]  # (r, n) weights -> (r,) metrics


def _correlations(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> _Statistic:
    ranked = _weighted_ranks(scores), _weighted_ranks(labels)

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {
            "spearman": _weighted_pearson(ranked[0](weights), ranked[1](weights), weights),
            "pearson": _weighted_pearson(scores[None], labels[None], weights),
        }

    return statistic


def _weighted_ranks(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return a function from (r, n) weights to the (r, n) mean ranks of (n,) values repeated as often as these say."""
    order = np.argsort(values, kind="stable")
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes) - 1

    def ranks(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = np.cumsum(weights[:, order], axis=1)[:, last]  # (r, m) number of values at or below
        starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
        return ((starts + ends + 1) / 2)[:, group]

    return ranks


def _weighted_pearson(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute (r,) correlations of (r or 1, n) numbers; nan if either side is constant."""
    total = weights.sum(1, keepdims=True)
    deviations = [values - (weights * values).sum(1, keepdims=True) / total for values in (x, y)]
    variances = [np.einsum("rn,rn,rn->r", weights, d, d) for d in deviations]
    # rounding leaves a constant with a variance of about 1e-32 of its square
    defined = [
        variance > 1e-20 * (weights * np.square(values)).sum(1)
        for variance, values in zip(variances, (x, y), strict=True)
    ]
    covariance = np.einsum("rn,rn,rn->r", weights, *deviations)
    is_defined = defined[0] & defined[1]
    return np.where(is_defined, covariance / np.sqrt(np.where(is_defined, variances[0] * variances[1], 1.0)), np.nan)


def _areas(scores: NDArray[np.float64], matches: NDArray[np.bool_]) -> _Statistic:
    order = np.argsort(-scores, kind="stable")
    sorted_matches = matches[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        sorted_weights = weights[:, order]
        found = np.cumsum(sorted_weights, axis=1)[:, last_of_tie]  # (r, m) pairs at or above each score
        true_positives = np.cumsum(sorted_weights * sorted_matches, axis=1)[:, last_of_tie]
        false_positives = found - true_positives
        positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
        defined = ((positives > 0) & (negatives > 0))[:, 0]
        recall = true_positives / np.maximum(positives, 1)
        gains = np.diff(recall, axis=1, prepend=0)
        precision = true_positives / np.maximum(found, 1)
        steps = np.diff(false_positives / np.maximum(negatives, 1), axis=1, prepend=0)
        area = (steps * (recall - gains / 2)).sum(1)  # trapezia
        return {
            "average_precision": np.where(defined, (gains * precision).sum(1), np.nan),
            "roc_auc": np.where(defined, area, np.nan),
        }

    return statistic


def _decision(said: NDArray[np.bool_], matches: NDArray[np.bool_]) -> _Statistic:
    kinds = np.stack([said & matches, said & ~matches, ~said & matches, ~said & ~matches], axis=1).astype(np.float64)

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        tp, fp, fn, tn = (weights @ kinds).T
        return {name: metric(tp, fp, fn, tn) for name, metric in DECISION_METRICS.items()}

    return statistic


def _calibration(probabilities: NDArray[np.float64], matches: NDArray[np.bool_]) -> _Statistic:
    errors = probabilities - matches
    squares = np.square(errors)
    number = calibration_bins(probabilities)
    members = [np.flatnonzero(number == each) for each in np.unique(number)]

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(1)
        gaps = sum(np.abs(weights[:, rows] @ errors[rows]) for rows in members)
        return {"ece": gaps / total, "brier": weights @ squares / total}

    return statistic


def _own(pairs: ScoredPairs) -> _Statistic:
    names = list(pairs.own_metrics())

    def values(counts: NDArray[np.float64]) -> list[float]:
        if not np.isfinite(counts).all():  # there are too few clusters to draw from
            return [math.nan] * len(names)
        drawn = pairs.select(np.repeat(np.arange(len(counts)), counts.astype(np.int64))).own_metrics()
        return [drawn.get(name, math.nan) for name in names]

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        table = np.array([values(counts) for counts in weights], dtype=np.float64).reshape(len(weights), len(names))
        return dict(zip(names, table.T, strict=True))

    return statistic
