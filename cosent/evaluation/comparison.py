"""Two models on the same pairs: is one better, or was it chance?

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
    """How much better the second model is by a metric.

    Attributes:
        first: the first model's value.
        second: the second model's.
        low: lower end of the 95% interval of second - first.
        high: its upper end.
        p_value: of no difference, two-sided: how often a resample's difference has the other sign, twice; nan, as the
            interval is, where there are too few clusters to draw from.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float

    @property
    def value(self) -> float:
        """The second model's value less the first one's."""
        return self.second - self.first


@dataclass(frozen=True)
class McNemar:
    """Whether two models' decisions differ in more than chance.

    Attributes:
        only_first: pairs that the first model alone decides right.
        only_second: pairs that the second model alone does.
        p_value: exact and two-sided; it takes pairs for independent, which pairs that share a text are not.
    """

    only_first: int
    only_second: int
    p_value: float


def paired_differences(
    first: ScoredPairs, second: ScoredPairs, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Compare two models by each metric that both have, drawing the same clusters for both.

    Args:
        first: what the first model says of n pairs.
        second: what the second model says of the same pairs, in the same order.
        num_resamples: how often clusters are drawn.
        seed: of the draws.

    Returns:
        A difference for each metric of `resampled_metrics` that both have.

    Raises:
        ValueError: if these are not the same pairs.

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
            # never 0 from a finite number of draws
            p_value = min(1.0, 2 * (min(sides) + 1) / (len(drawn) + 1)) if len(drawn) else math.nan
            differences[name] = Difference(values[0][name], values[1][name], *interval(drawn), p_value)
    return differences


def mcnemar(first: ScoredPairs, second: ScoredPairs) -> McNemar:
    """Compare two models' decisions about the same pairs.

    Args:
        first: what the first model says of n pairs, with a threshold, and which of them match.
        second: likewise the second model, on the same pairs.

    Returns:
        How many pairs one of them alone decides right, and whether that could be a fair coin.

    Raises:
        ValueError: if a model decides nothing, or these are not the same pairs.

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
    """The order of pairs by how differently two models rank them.

    Args:
        first: what the first model says of n pairs.
        second: what the second model says.

    Returns:
        (n,) pairs' numbers, those first whose rank among all scores differs most; cosines of two models are not on one
        scale, ranks are.
    """
    ranks = [stats.rankdata(pairs.scores) for pairs in (first, second)]
    return np.argsort(-np.abs(ranks[1] - ranks[0]), kind="stable")
