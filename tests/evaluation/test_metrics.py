import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from cosent.evaluation.metrics import (
    BEST_DECISIONS,
    DECISION,
    NUM_BINS,
    best_decisions,
    calibration_bins,
    calibration_errors,
    correlations,
    decision,
)

SCORES = {
    "random": lambda rng, n: rng.normal(size=n),
    "tied": lambda rng, n: rng.integers(0, 5, n) / 4,
    "constant": lambda rng, n: np.full(n, 0.3),
}


@pytest.mark.parametrize("kind", ["random", "tied"])
@pytest.mark.parametrize("n", [3, 30, 1000])
def test_correlations_equal_scipys(kind, n):
    rng = np.random.default_rng(n)
    scores, labels = SCORES[kind](rng, n), np.append(rng.integers(0, 6, n - 2), [0, 5])
    found = correlations(scores, labels)
    assert found["spearman"] == pytest.approx(stats.spearmanr(scores, labels).statistic, abs=1e-9)
    assert found["pearson"] == pytest.approx(stats.pearsonr(scores, labels).statistic, abs=1e-9)


@pytest.mark.parametrize(("scores", "labels"), [([1, 1], [0, 1]), ([0, 1], [1, 1]), ([0.5], [1])])
def test_correlations_of_a_constant_are_undefined(scores, labels):
    assert all(math.isnan(value) for value in correlations(scores, labels).values())


def test_two_pairs_correlate_fully():
    assert correlations([0.2, 0.9], [0, 1]) == pytest.approx({"spearman": 1, "pearson": 1})


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("n", [2, 30, 1000])
def test_areas_and_decisions_equal_scikit_learns(kind, n):
    rng = np.random.default_rng(n)
    scores, matches = SCORES[kind](rng, n), np.append(rng.random(n - 2) < 0.3, [True, False])
    found = best_decisions(scores, matches)
    assert tuple(found) == BEST_DECISIONS
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(matches, scores), abs=1e-9)
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(matches, scores), abs=1e-9)
    said = scores >= found["best_threshold"]
    at_threshold = decision(scores, matches, found["best_threshold"])
    assert tuple(at_threshold) == DECISION
    assert at_threshold["accuracy"] == found["best_accuracy"]
    expected = {
        "accuracy": reference.accuracy_score(matches, said),
        "precision": reference.precision_score(matches, said, zero_division=0),
        "recall": reference.recall_score(matches, said, zero_division=0),
        "f1": reference.f1_score(matches, said, zero_division=0),
        "mcc": reference.matthews_corrcoef(matches, said),
    }
    assert {key: at_threshold[key] for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("matches", [[True, True], [False, False]])
def test_areas_with_one_class_are_undefined_and_decisions_perfect(matches):
    found = best_decisions([0.2, 0.1], matches)
    assert math.isnan(found["average_precision"])
    assert math.isnan(found["roc_auc"])
    assert found["best_accuracy"] == 1.0


def test_a_threshold_is_met_by_an_equal_score():
    assert decision([0.5, 0.4], [True, False], 0.5)["accuracy"] == 1.0


def test_hand_worked_decision():
    # at 0.6 and above are 3 matches and 1 other pair, below 2 matches and 4 others
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1]
    found = decision(scores, np.array([1, 0, 1, 1, 1, 0, 0, 1, 0, 0]) > 0, 0.6)
    assert found == pytest.approx(
        {
            "accuracy": 7 / 10,
            "threshold": 0.6,
            "precision": 3 / 4,
            "recall": 3 / 5,
            "f1": 6 / 9,
            "mcc": (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
        }
    )


def test_calibration_errors_equal_a_loop_and_scikit_learns():
    rng = np.random.default_rng(0)
    probabilities = np.append(rng.random(500), [0, 1, 1 / 15, 2 / 15])
    matches = rng.random(504) < probabilities
    gaps = []
    for number in range(NUM_BINS):
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        inside = (probabilities > low) & (probabilities <= high) | (number == 0) & (probabilities == 0)
        if inside.any():
            gaps.append(abs(probabilities[inside].mean() - matches[inside].mean()) * inside.sum())
    found = calibration_errors(probabilities, matches)
    assert found["ece"] == pytest.approx(sum(gaps) / 504, abs=1e-12)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(matches, probabilities), abs=1e-12)
    assert calibration_bins([0, 1 / 15, 0.07, 1]).tolist() == [0, 0, 1, 14]


def test_what_is_always_right_by_halves_is_calibrated():
    assert calibration_errors([0.5, 0.5], [True, False]) == {"ece": 0.0, "brier": 0.25}
