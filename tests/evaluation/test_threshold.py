import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

from cosent.evaluation.threshold import attainable_decisions


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
        for values, expected in ((decisions.accuracy, 1), (decisions.f1, 2)):
            assert decisions.best(values)[0] == pytest.approx(max(each[expected] for each in attained), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_applying_the_threshold_reproduces_what_was_reported(case):
    rng = np.random.default_rng(0)
    for n in (1, 3, 50, 51):
        scores, matches = CASES[case](rng, n)
        decisions = attainable_decisions(scores, matches)
        accuracy, threshold = decisions.best(decisions.accuracy)
        assert np.mean((scores.astype(float) >= threshold) == matches) == accuracy
        best_f1, threshold = decisions.best(decisions.f1)
        assert f1(scores.astype(float) >= threshold, matches) == best_f1


def test_hand_worked_example():
    decisions = attainable_decisions([0.9, 0.7, 0.7, 0.1], [True, True, False, False])
    assert decisions.thresholds == pytest.approx([0.9, 0.8, 0.4, 0.1])
    assert decisions.thresholds[0] > 0.9
    assert decisions.true_positives.tolist() == [0, 1, 2, 2]
    assert decisions.false_positives.tolist() == [0, 0, 1, 2]
    assert decisions.accuracy.tolist() == [0.5, 0.75, 0.75, 0.5]


@pytest.mark.parametrize("case", CASES)
def test_best_accuracy_equals_sentence_transformers(case):
    # its versions before 6.2 cut inside ties: a collapsed model, every score 1.0, had an accuracy of 1.0
    scores, matches = CASES[case](np.random.default_rng(1), 40)
    theirs, _ = BinaryClassificationEvaluator.find_best_acc_and_threshold(
        scores, matches.astype(int), high_score_more_similar=True
    )
    decisions = attainable_decisions(scores, matches)
    assert decisions.best(decisions.accuracy)[0] == pytest.approx(theirs, abs=1e-12)


def test_a_million_pairs_are_no_hardship():
    rng = np.random.default_rng(0)
    scores, matches = rng.normal(size=1_000_000), rng.random(1_000_000) < 0.5
    decisions = attainable_decisions(scores, matches)  # quadratic time or memory would not come back
    accuracy, threshold = decisions.best(decisions.accuracy)
    assert np.mean((scores >= threshold) == matches) == accuracy


@pytest.mark.parametrize(
    ("scores", "matches", "message"),
    [([], [], "n >= 1"), ([1.0], [True, False], "must both be"), ([1.0, np.nan], [True, False], "1 that are not")],
)
def test_what_cannot_be_decided_is_refused(scores, matches, message):
    with pytest.raises(ValueError, match=message):
        attainable_decisions(scores, matches)
