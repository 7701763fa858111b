"""Comparison of two models on the same pairs: is one better, or is the difference chance?

Shapes: n pairs, R resamples.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cosent.evaluation.bootstrap import NUM_RESAMPLES, interval, resampled_metrics
from cosent.evaluation.scored import ScoredPairs


@dataclass(frozen=True)
class Difference:
    """The difference between two models by a metric.

    Attributes:
        first: the first model's value.
        second: the second model's value.
        low: lower end of the 95% interval of second - first.
        high: upper end of that interval.
        p_value: two-sided p-value of no difference: twice the share of resamples whose difference has the other sign.
            Like the interval, it is nan if there are too few clusters to draw from.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float

    @property
    def value(self) -> float:
        """The second model's value minus the first model's."""
        return self.second - self.first


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of whether two models' decisions differ by more than chance.

    Attributes:
        only_first: number of pairs that only the first model decides correctly.
        only_second: number of pairs that only the second model decides correctly.
        p_value: exact two-sided p-value. It assumes independent pairs, which pairs that share a text are not.
    """

    only_first: int
    only_second: int
    p_value: float


def paired_differences(
    first: ScoredPairs, second: ScoredPairs, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Compare two models by each metric that both have, with the same resamples for both.

    Args:
        first: the first model's scores of n pairs.
        second: the second model's scores of the same pairs, in the same order.
        num_resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        A difference for each metric of `resampled_metrics` that both have.

    Raises:
        ValueError: if the pairs differ.

    Reference: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 16.
    """
    _check_same(first, second)
    resamples = [resampled_metrics(pairs, num_resamples=num_resamples, seed=seed) for pairs in (first, second)]
    values = first.metrics(), second.metrics()
    differences = {}
    for name in resamples[0]:
        if name in resamples[1]:
            drawn = resamples[1][name] - resamples[0][name]
            drawn = drawn[np.isfinite(drawn)]
            sides = [np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)]
            # a finite number of draws never gives a p-value of 0
            p_value = min(1.0, 2 * (min(sides) + 1) / (len(drawn) + 1)) if len(drawn) else math.nan
            differences[name] = Difference(values[0][name], values[1][name], *interval(drawn), p_value)
    return differences


def mcnemar(first: ScoredPairs, second: ScoredPairs) -> McNemar:
    """Compare two models' decisions about the same pairs.

    Args:
        first: the first model's scores of n pairs, with its threshold and with the true matches.
        second: the second model's scores of the same pairs, with its threshold.

    Returns:
        The numbers of pairs that only one model decides correctly, and the p-value of their difference.

    Raises:
        ValueError: if a threshold or the true matches are missing, or the pairs differ.

    Reference: McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
        1947; in its exact form, a binomial test.
    """
    _check_same(first, second)
    right = []
    for pairs in (first, second):
        if pairs.threshold is None or pairs.matches is None:
            raise ValueError("both models need a threshold, and the pairs need to say what matches")
        right.append((pairs.scores >= pairs.threshold) == pairs.matches)
    only_first, only_second = int(np.sum(right[0] & ~right[1])), int(np.sum(~right[0] & right[1]))
    differ = only_first + only_second
    return McNemar(only_first, only_second, float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0)


def _check_same(first: ScoredPairs, second: ScoredPairs) -> None:
    matches = [pairs.labels if pairs.matches is None else pairs.matches for pairs in (first, second)]
    same = zip((first.labels, first.clusters, matches[0]), (second.labels, second.clusters, matches[1]), strict=True)
    if not all(np.array_equal(one, other) for one, other in same):
        raise ValueError("two models are compared on the same pairs, in the same order, with the same truth")


def disagreements(first: ScoredPairs, second: ScoredPairs) -> NDArray[np.int64]:
    """Order pairs by how differently two models rank them.

    Args:
        first: the first model's scores of n pairs.
        second: the second model's scores of the same pairs.

    Returns:
        (n,) indices of the pairs, the largest difference in rank first. Ranks, unlike cosines, are on the same scale
        for both models.
    """
    ranks = [stats.rankdata(pairs.scores) for pairs in (first, second)]
    return np.argsort(-np.abs(ranks[1] - ranks[0]), kind="stable")
