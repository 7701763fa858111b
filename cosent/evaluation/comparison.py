"""Comparison of two models on the same pairs: is one better, or is the difference chance?

Shapes: n pairs, R resamples.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cosent.data.datasets import Records, TextDataset, read_records
from cosent.data.sources import Data
from cosent.data.splits import component_of_examples
from cosent.errors import UserError
from cosent.evaluation.bootstrap import CONFIDENCE, NUM_RESAMPLES, interval, resampled_metrics
from cosent.evaluation.evaluators import EvaluationOptions, evaluate, stored_options
from cosent.evaluation.scored import ScoredPairs
from cosent.model.encoder import SentenceBert


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


@dataclass(frozen=True)
class Comparison:
    """Two models on the same pairs. Printed, it is a table of the differences.

    Attributes:
        differences: the differences by metric.
        mcnemar: the test of their decisions. None: a model has no threshold, or labels do not say what matches.
        first: the first model's scores.
        second: the second model's scores.
        records: the pairs.
    """

    differences: dict[str, Difference]
    mcnemar: McNemar | None
    first: ScoredPairs
    second: ScoredPairs
    records: Records

    def __str__(self) -> str:
        lines = [f"{'':20}{'A':>8}{'B':>10}{'B - A':>10}   {CONFIDENCE:.0%} interval        p"]
        for name, difference in self.differences.items():
            values = f"{difference.first:8.4f}{difference.second:10.4f}{difference.value:+10.4f}"
            clear = " *" if difference.low > 0 or difference.high < 0 else ""
            is_known = math.isfinite(difference.p_value)
            ends = (
                f"{difference.low:+.4f} to {difference.high:+.4f}   {difference.p_value:.3f}{clear}" if is_known else ""
            )
            lines.append(f"{name.replace('_', ' '):20}{values}   {ends}".rstrip())
        lines.append("\n* the interval does not hold 0. Pairs that share a text were drawn together.")
        if self.mcnemar is not None:
            lines.append(
                f"\nMcNemar: A alone is right about {self.mcnemar.only_first:,} pairs, B alone about "
                f"{self.mcnemar.only_second:,}; p = {self.mcnemar.p_value:.3g}, if pairs were independent"
            )
        return "\n".join(lines)

    @property
    def disagreements(self) -> NDArray[np.int64]:
        """(n,) indices of the pairs, those first that the models rank most differently."""
        return disagreements(self.first, self.second)


def compare(
    first: SentenceBert | str | Path,
    second: SentenceBert | str | Path,
    data: TextDataset | Records | Data,
    *,
    positive_label_min: float | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    batch_size: int = 64,
    show_progress_bar: bool = False,
) -> Comparison:
    """Compare two models on the same labelled pairs: is one better, or is the difference chance?

    Args:
        first: the first model, or its folder or hub id.
        second: the second model.
        data: pairs that neither model was trained on: a dataset, records, or any source that `read_records` takes.
        positive_label_min: the lowest label of a match. None: that of the models' decisions; 0/1 labels need none.
        num_resamples: bootstrap resamples, the same for both models.
        seed: seed of the bootstrap.
        batch_size: batch size in texts of 128 tokens.
        show_progress_bar: whether to show progress on stderr.

    Returns:
        The differences, with paired intervals, and a test of the decisions.

    Raises:
        UserError: if the models differ in what a match is, or the data holds no pairs.
        DataError: if the data cannot be used.
        TypeError: if the data is of a type that is not taken.
    """
    if num_resamples < 1:
        raise UserError(f"num_resamples must be at least 1 here, got {num_resamples}")
    records = data.records if isinstance(data, TextDataset) else data
    if not isinstance(records, Records):
        records = read_records(records, data_format="pairs", usual_split="test")
    if records.data_format != "pairs":
        raise UserError(f"{records.name} holds {records.data_format}: models are compared on labelled pairs")
    models = [one if isinstance(one, SentenceBert) else SentenceBert(one) for one in (first, second)]
    least = _common_minimum(models) if positive_label_min is None else positive_label_min
    options = EvaluationOptions(batch_size=batch_size, positive_label_min=least, show_progress_bar=show_progress_bar)
    # tokenizers may treat different texts as equal, so clusters are computed from the texts themselves
    clusters = component_of_examples(list(records.texts))
    one, other = (replace(_scored(model, records, options), clusters=clusters) for model in models)
    differences = paired_differences(one, other, num_resamples=num_resamples, seed=seed)
    has_decisions = None not in (one.threshold, other.threshold) and one.matches is not None
    return Comparison(differences, mcnemar(one, other) if has_decisions else None, one, other, records)


def _scored(model: SentenceBert, records: Records, options: EvaluationOptions) -> ScoredPairs:
    """Score the pairs with a model, and decide them by its own threshold."""
    stored = stored_options(model)
    options = replace(options, threshold=stored.threshold, calibration=stored.calibration)
    pairs = evaluate(model, records.tokenize(model), options).pairs
    assert pairs is not None  # as these are pairs
    return pairs


def _common_minimum(models: list[SentenceBert]) -> float | None:
    """Return the lowest label of a match that the models store; both are measured by the same truth."""
    known = [(model.name_or_path, model.settings.decision) for model in models]
    stored = {decision.positive_label_min for _, decision in known if decision is not None}
    if len(stored) > 1:
        minima = ", ".join(
            f"{name}: {'labels are 0 and 1' if decision.positive_label_min is None else decision.positive_label_min}"
            for name, decision in known
            if decision is not None
        )
        raise UserError(f"the models differ in what a match is ({minima}): give positive_label_min")
    return stored.pop() if stored else None


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
