from dataclasses import replace

import numpy as np
import pytest

from cosent.calibration import Platt
from cosent.evaluation.decide import decide, describe_decision
from tests.evaluation.test_bootstrap import scored


def test_a_decision_remembers_what_it_is_from():
    pairs = scored(600)
    found = decide(pairs, "dev.tsv", threshold_metric="recall@0.9", positive_label_min=3.0)
    assert (found.metric, found.calibrated_on, found.num_pairs) == ("recall@0.9", "dev.tsv", 600)
    assert found.positive_label_min == 3.0
    assert isinstance(found.calibration, Platt)
    said = pairs.scores >= found.threshold
    assert said[pairs.matches].mean() >= 0.9
    assert found.value == pytest.approx(pairs.matches[said].mean())
    assert decide(pairs, "dev.tsv").metric == "accuracy"


@pytest.mark.parametrize("matches", [None, np.ones(60, bool), np.zeros(60, bool)])
def test_without_two_kinds_of_pairs_nothing_is_decided(matches):
    assert decide(replace(scored(), matches=matches), "dev.tsv") is None


def test_a_threshold_that_rests_on_few_pairs_says_so():
    pairs = scored(600)
    chosen = decide(pairs, "dev.tsv")
    line = describe_decision(pairs, chosen)
    assert line.startswith(f"accuracy {chosen.value:.4f}, precision ")
    assert "few" not in line
    strict = replace(chosen, threshold=2.0)
    assert "rests on few pairs: of 600, 0 are said to match" in describe_decision(pairs, strict)


@pytest.mark.parametrize(
    ("said", "matching", "few"),
    [(10, 10, False), (30, 30, False), (9, 20, True), (31, 20, True), (20, 9, True), (20, 31, True)],
)
def test_ten_pairs_on_either_side_of_the_threshold_and_of_the_truth_are_enough(said, matching, few):
    pairs = replace(scored(40), scores=np.arange(40.0), matches=np.arange(40) < matching)
    chosen = replace(decide(pairs, "dev.tsv"), threshold=40.0 - said)  # which a score equals
    assert ("rests on few pairs" in describe_decision(pairs, chosen)) == few
