import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from cosent.evaluation import retrieval
from cosent.evaluation.retrieval import neighbor_values, retrieval_values
from tests.losses.tensor_sizes import TensorSizes


def neighbor_metrics(*arguments, **options):
    """Means over the queries that count, and how many these are."""
    values = neighbor_values(*arguments, **options)
    valid = values["nn_accuracy"].isfinite()
    assert all(torch.equal(value.isfinite(), valid) for value in values.values())
    return {"num_queries": int(valid.sum())} | {name: value[valid].mean().item() for name, value in values.items()}


def retrieval_metrics(*arguments):
    return {name: value.mean().item() for name, value in retrieval_values(*arguments).items()}


@pytest.fixture(params=[2**24, 64])
def block(request, monkeypatch):
    """Queries in one block, and in many."""
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", request.param)


def naive(queries, query_labels, index, index_labels, k, leave_one_out):
    """The metrics, query by query."""
    nearest, votes, precisions = [], [], []
    for i, query in enumerate(queries):
        others = [j for j in range(len(index)) if not (leave_one_out and i == j)]
        scores = {j: torch.cosine_similarity(query, index[j], dim=0).item() for j in others}
        ranked = [index_labels[j].item() for j in sorted(others, key=lambda j: -scores[j])]
        own = query_labels[i].item()
        relevant = ranked.count(own)
        if not relevant:
            continue
        counts = Counter(ranked[:k])
        most = max(counts.values())
        nearest.append(ranked[0] == own)
        votes.append(next(label for label in ranked if counts[label] == most) == own)
        hits = [label == own for label in ranked[:relevant]]
        precisions.append(sum(hit * sum(hits[: r + 1]) / (r + 1) for r, hit in enumerate(hits)) / relevant)
    return {
        "num_queries": len(nearest),
        "nn_accuracy": np.mean(nearest),
        "knn_accuracy": np.mean(votes),
        "map_at_r": np.mean(precisions),
    }


@pytest.mark.parametrize("k", [1, 3, 10, 500])
def test_neighbors_equal_the_naive_loops(block, k):
    torch.manual_seed(k)
    queries, index = torch.randn(40, 5, dtype=torch.float64), torch.randn(60, 5, dtype=torch.float64)
    labels, index_labels = torch.randint(0, 9, (40,)), torch.randint(0, 7, (60,))  # two classes are not in the index
    found = neighbor_metrics(queries, labels, (index, index_labels), k=k)
    assert found == pytest.approx(naive(queries, labels, index, index_labels, k, False))
    assert 0 < found["num_queries"] < 40
    alone = neighbor_metrics(queries, labels, k=k)
    assert alone == pytest.approx(naive(queries, labels, queries, labels, k, True))


def test_one_neighbor_agrees_with_scikit_learn():
    torch.manual_seed(0)
    queries, index = torch.randn(50, 4), torch.randn(200, 4)
    labels, index_labels = torch.randint(0, 4, (50,)), torch.randint(0, 4, (200,))
    found = neighbor_metrics(queries, labels, (index, index_labels))
    peer = KNeighborsClassifier(1, metric="cosine").fit(index, index_labels)
    assert found["nn_accuracy"] == pytest.approx(peer.score(queries, labels))


def test_hand_worked_neighbors():
    angles = torch.tensor([0.0, 0.1, 0.3, 1.0, 1.1])
    embeddings = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 1, 0, 2, 2])
    found = neighbor_metrics(embeddings, labels, k=3)
    # nearest others: 1, 0, 1, 4, 3; the lone text of class 1 is left out
    assert found["num_queries"] == 4
    assert found["nn_accuracy"] == 2 / 4
    # votes of three: [1, 0, 2] -> 1; [1, 0, 2] -> 1; [2, 0, 1] -> 2; [2, 0, 1] -> 2
    assert found["knn_accuracy"] == 2 / 4
    assert found["map_at_r"] == 2 / 4


def test_no_class_to_be_found():
    found = neighbor_metrics(torch.randn(2, 3), torch.tensor([0, 1]))
    assert found["num_queries"] == 0
    assert math.isnan(found["knn_accuracy"])


def test_class_ids_may_be_any_int64():
    labels = torch.tensor([2**62 + 1, 2**62 + 2, -(2**62), 2**62 + 1])
    embeddings = torch.eye(4)
    assert neighbor_metrics(embeddings, labels, (embeddings, labels), k=1)["nn_accuracy"] == 1


def test_retrieval_equals_the_naive_loops(block):
    torch.manual_seed(0)
    queries, candidates = torch.randn(20, 3), torch.randn(30, 3)
    groups, candidate_groups = torch.randint(0, 12, (20,)), torch.randint(0, 12, (30,))
    targets = torch.randint(0, 30, (20,))
    ranks = []
    for i, target in enumerate(targets.tolist()):
        scores = torch.cosine_similarity(queries[i], candidates)
        others = [c for c in range(30) if candidate_groups[c] != groups[i] and c != target]
        ranks.append(1 + sum(scores[c].item() >= scores[target].item() for c in others))
    expected = {
        "recall_at_1": np.mean([rank <= 1 for rank in ranks]),
        "recall_at_10": np.mean([rank <= 10 for rank in ranks]),
        "mrr": np.mean([1 / rank for rank in ranks]),
    }
    assert retrieval_metrics(queries, groups, candidates, candidate_groups, targets) == pytest.approx(expected)


def test_no_matrix_holds_all_queries_by_all_candidates(monkeypatch):
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", 1_000)
    texts, groups = torch.randn(100, 4), torch.arange(100) % 50
    with TensorSizes() as sizes:
        neighbor_values(texts, groups, k=3)
        retrieval_values(texts, groups, texts, groups, torch.arange(100).roll(50))
    assert sizes.largest <= 1_000


def test_hand_worked_retrieval_and_ties_count_against_it():
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    groups = torch.tensor([0, 1, 2])
    query = torch.tensor([[1.0, 0.1]])
    found = retrieval_metrics(query, torch.tensor([0]), candidates, groups, torch.tensor([0]))
    assert found == {"recall_at_1": 0, "recall_at_10": 1, "mrr": 0.5}  # the third text scores the same
    found = retrieval_metrics(query, torch.tensor([0]), candidates, torch.tensor([0, 1, 0]), torch.tensor([0]))
    assert found == {"recall_at_1": 1, "recall_at_10": 1, "mrr": 1}  # but it matches, too
