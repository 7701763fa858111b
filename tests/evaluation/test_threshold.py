import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

from cosent.errors import UserError
from cosent.evaluation.confusion import DECISION_METRICS
from cosent.evaluation.metrics import decision
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions


def brute_force(scores, matches):
    """Every decision that some threshold makes: each score in turn as the lowest that matches, and nothing at all."""
    for lowest in [*sorted(set(scores)), np.inf]:
        said = scores >= lowest
        yield tuple(said), np.mean(said == matches), f1(said, matches)


def f1(said, matches):
    found = np.sum(said & matches)
    return 2 * found / max(said.sum() + matches.sum(), 1)


CASES = {
    "random": lambda rng, n: (rng.normal(size=n), rng.random(n) < 0.5),
    "tied": lambda rng, n: (rng.integers(0, 4, n) / 3, rng.random(n) < 0.5),
    "constant scores": lambda rng, n: (np.ones(n), rng.random(n) < 0.5),
    "only matches": lambda rng, n: (rng.normal(size=n), np.ones(n, bool)),
    "no match": lambda rng, n: (rng.normal(size=n), np.zeros(n, bool)),
    "neighbouring floats": lambda rng, n: (1 + rng.integers(0, 3, n) * np.spacing(1.0), rng.random(n) < 0.5),
    "float32": lambda rng, n: (rng.normal(size=n).astype(np.float32), rng.random(n) < 0.5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_equals_brute_force_over_all_attainable_decisions(case, n):
    rng = np.random.default_rng(n)
    for _ in range(20):
        scores, matches = CASES[case](rng, n)
        decisions = attainable_decisions(scores, matches)
        attained = list(brute_force(scores, matches))
        assert {tuple(scores.astype(float) >= t) for t in decisions.thresholds} == {said for said, _, _ in attained}
        assert len(decisions.thresholds) == len(attained)
        for values, expected in ((decisions.values("accuracy"), 1), (decisions.values("f1"), 2)):
            assert decisions.best(values)[0] == pytest.approx(max(each[expected] for each in attained), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_applying_the_threshold_reproduces_what_was_reported(case):
    rng = np.random.default_rng(0)
    for n in (1, 3, 50, 51):
        scores, matches = CASES[case](rng, n)
        decisions = attainable_decisions(scores, matches)
        accuracy, threshold = decisions.best(decisions.values("accuracy"))
        assert np.mean((scores.astype(float) >= threshold) == matches) == accuracy
        best_f1, threshold = decisions.best(decisions.values("f1"))
        assert f1(scores.astype(float) >= threshold, matches) == best_f1


def test_hand_worked_example():
    decisions = attainable_decisions([0.9, 0.7, 0.7, 0.1], [True, True, False, False])
    assert decisions.thresholds == pytest.approx([0.9, 0.8, 0.4, 0.1])
    assert decisions.thresholds[0] > 0.9
    assert decisions.true_positives.tolist() == [0, 1, 2, 2]
    assert decisions.false_positives.tolist() == [0, 0, 1, 2]
    assert decisions.values("accuracy").tolist() == [0.5, 0.75, 0.75, 0.5]


@pytest.mark.parametrize("case", CASES)
def test_best_accuracy_equals_sentence_transformers(case):
    # its versions before 6.2 cut inside ties: a collapsed model, every score 1.0, had an accuracy of 1.0
    scores, matches = CASES[case](np.random.default_rng(1), 40)
    theirs, _ = BinaryClassificationEvaluator.find_best_acc_and_threshold(
        scores, matches.astype(int), high_score_more_similar=True
    )
    decisions = attainable_decisions(scores, matches)
    assert decisions.best(decisions.values("accuracy"))[0] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("case", ["random", "tied", "constant scores", "float32"])
def test_best_f1_equals_sentence_transformers(case):
    scores, matches = CASES[case](np.random.default_rng(2), 40)
    theirs, *_ = BinaryClassificationEvaluator.find_best_f1_and_threshold(scores, matches.astype(int), True)
    decisions = attainable_decisions(scores, matches)
    assert decisions.best(decisions.values("f1"))[0] == pytest.approx(theirs, abs=1e-12)


def test_where_sentence_transformers_differs():
    """It reports MCC at the threshold of the best F1 of the very data, and stores none; here MCC has one of its own."""
    scores, matches = np.array([0.95, 0.9, 0.5, 0.4, 0.3]), np.array([1, 1, 0, 1, 1]) > 0
    *_, threshold = BinaryClassificationEvaluator.find_best_f1_and_threshold(scores, matches.astype(int), True)
    theirs = decision(scores, matches, threshold)["mcc"]
    value, _ = ThresholdMetric.parse("mcc").choose(attainable_decisions(scores, matches))
    # everything matches by the best F1, which is no correlation at all; hand-worked: 2 / sqrt(2 * 4 * 1 * 3)
    assert (theirs, value) == pytest.approx((0, 2 / 24**0.5))
    # where nothing matches, its threshold of 0 calls most pairs a match
    *_, threshold = BinaryClassificationEvaluator.find_best_f1_and_threshold(scores, np.zeros(5), True)
    assert decision(scores, np.zeros(5, bool), threshold)["accuracy"] == 0
    nothing = attainable_decisions(scores, np.zeros(5, bool))
    assert decision(scores, np.zeros(5, bool), nothing.best(nothing.values("f1"))[1])["accuracy"] == 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_every_metric_of_all_decisions_is_that_of_each(case, n):
    scores, matches = CASES[case](np.random.default_rng(n), n)
    decisions = attainable_decisions(scores, matches)
    for k, threshold in enumerate(decisions.thresholds):
        expected = decision(scores.astype(float), matches, threshold)
        for name in DECISION_METRICS:
            assert decisions.values(name)[k] == pytest.approx(expected[name], abs=1e-12)
        said = scores.astype(float) >= threshold
        cost = (3 * np.sum(said & ~matches) + 0.5 * np.sum(~said & matches)) / n
        assert decisions.cost(3, 0.5)[k] == pytest.approx(cost)


CHOICES = {
    "accuracy": lambda m: m["accuracy"],
    "f1": lambda m: m["f1"],
    "mcc": lambda m: m["mcc"],
    "precision@0.8": lambda m: m["recall"] if m["precision"] >= 0.8 else -1,
    "recall@0.7": lambda m: m["precision"] if m["recall"] >= 0.7 else -1,
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("case", ["random", "tied", "float32"])
def test_the_chosen_threshold_is_the_best_of_all(name, case):
    scores, matches = CASES[case](np.random.default_rng(7), 60)
    scores = scores + matches  # better than chance, so that limits can be met
    decisions = attainable_decisions(scores, matches)
    value, threshold = ThresholdMetric.parse(name).choose(decisions)
    attained = [decision(scores, matches, t) for t in decisions.thresholds]
    assert value == pytest.approx(max(map(CHOICES[name], attained)))
    assert CHOICES[name](decision(scores, matches, threshold)) == pytest.approx(value)


def test_a_false_match_that_costs_more_makes_the_threshold_stricter():
    scores, matches = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 1, 0]) > 0
    decisions = attainable_decisions(scores, matches)
    # nothing: 3 missed; 0.9 on: 2 missed; 0.6 on: 1 false; everything: 2 false
    assert ThresholdMetric.parse("cost:1:1").choose(decisions) == pytest.approx((1 / 5, 0.55))
    assert ThresholdMetric.parse("cost:5:1").choose(decisions) == pytest.approx((2 / 5, 0.85))
    assert ThresholdMetric.parse("cost:0:1").choose(decisions) == pytest.approx((0, 0.55))


def test_a_limit_is_met_by_what_equals_it():
    decisions = attainable_decisions([0.9, 0.8, 0.7, 0.6, 0.5], np.array([1, 1, 0, 1, 0]) > 0)
    # precisions 1, 1, 2/3, 3/4 and 3/5; recalls 1/3, 2/3, 2/3, 1 and 1
    assert ThresholdMetric.parse("precision@0.75").choose(decisions) == pytest.approx((1, 0.55))
    assert ThresholdMetric.parse("precision@1").choose(decisions) == pytest.approx((2 / 3, 0.75))
    assert ThresholdMetric.parse("recall@1").choose(decisions) == pytest.approx((3 / 4, 0.55))


def test_a_precision_that_nothing_has_gives_the_highest_there_is(caplog):
    decisions = attainable_decisions([0.9, 0.8, 0.7, 0.6], np.array([0, 1, 1, 0]) > 0)
    value, threshold = ThresholdMetric.parse("precision@0.9").choose(decisions)
    assert (value, threshold) == pytest.approx((1, 0.65))  # two of three, and all matches
    assert "no threshold has a precision@0.9: the highest precision, 0.6667, is taken" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["", "acc", "precision", "precision@0", "precision@1.1", "recall@x", "f1@0.5", "cost", "cost:1", "cost:0:0"]
    + ["cost:-1:1", "cost:nan:1", "cost:inf:1", "price:5:1", "precision:0.9", "cost@1:1", "accuracy:"],
)
def test_what_is_no_threshold_metric_is_refused(name):
    with pytest.raises(UserError, match="a threshold is chosen by accuracy, f1"):
        ThresholdMetric.parse(name)


def test_a_million_pairs_are_no_hardship():
    rng = np.random.default_rng(0)
    scores, matches = rng.normal(size=1_000_000), rng.random(1_000_000) < 0.5
    decisions = attainable_decisions(scores, matches)  # quadratic time or memory would not come back
    accuracy, threshold = decisions.best(decisions.values("accuracy"))
    assert np.mean((scores >= threshold) == matches) == accuracy


@pytest.mark.parametrize(
    ("scores", "matches", "message"),
    [
        ([], [], "n >= 1"),
        ([1.0], [True, False], "must both be"),
        ([[1.0]], [[True]], "must both be"),
        ([1.0, np.nan], [True, False], "1 that are not"),
    ],
)
def test_what_cannot_be_decided_is_refused(scores, matches, message):
    with pytest.raises(ValueError, match=message):
        attainable_decisions(scores, matches)
