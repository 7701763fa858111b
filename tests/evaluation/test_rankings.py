import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from cosent.evaluation.rankings import RANKING, ranking_values


def test_a_ranking_worked_out_by_hand():
    # relevant documents at ranks 2 and 4; a third one is not found at all
    relevance, ideal = np.array([[0.0, 1, 0, 3, 0]]), np.array([[3.0, 2, 1, 0, 0]])
    values = ranking_values(relevance, ideal, np.array([3]), (1, 3, 5))
    best = 3 + 2 / math.log2(3) + 1 / 2
    expected = {
        "ndcg": (0, (1 / math.log2(3)) / best, (1 / math.log2(3) + 3 / math.log2(5)) / best),
        "map": (0, (1 / 2) / 3, (1 / 2 + 2 / 4) / 3),
        "mrr": (0, 1 / 2, 1 / 2),
        "recall": (0, 1 / 3, 2 / 3),
        "precision": (0, 1 / 3, 2 / 5),
        "accuracy": (0, 1, 1),
    }
    assert list(expected) == list(RANKING)
    for name, by_depth in expected.items():
        for k, value in zip((1, 3, 5), by_depth, strict=True):
            np.testing.assert_allclose(values[f"{name}@{k}"], [value], atol=1e-15)


def test_negative_relevance_is_none():
    values = ranking_values(np.array([[-2.0, 1]]), np.array([[1.0, -2]]), np.array([1]), (2,))
    assert {name: value.tolist() for name, value in values.items()} == {
        "ndcg@2": [1 / math.log2(3)],
        "map@2": [0.5],
        "mrr@2": [0.5],
        "recall@2": [1],
        "precision@2": [0.5],
        "accuracy@2": [1],
    }


def test_ndcg_is_that_of_scikit_learn_without_ties():
    generator = np.random.default_rng(0)
    relevance = generator.integers(4, size=(30, 12)).astype(float)
    relevance[:, 0] = 1
    scores = np.tile(-np.arange(12.0), (30, 1))
    ideal = -np.sort(-relevance, axis=1)
    for k in (1, 5, 12):
        values = ranking_values(relevance[:, :k], ideal[:, :k], (relevance > 0).sum(1), (k,))
        np.testing.assert_allclose(values[f"ndcg@{k}"].mean(), ndcg_score(relevance, scores, k=k), atol=1e-12)


def test_arrays_that_are_not_deep_enough_are_refused():
    with pytest.raises(ValueError, match="must have 10 columns"):
        ranking_values(np.zeros((2, 5)), np.zeros((2, 5)), np.ones(2, dtype=int), (1, 10))
