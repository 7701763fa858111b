import math

import numpy as np
import pytest
import torch

from cosent.evaluation import geometry as module
from cosent.evaluation.geometry import alignment, class_alignment, effective_rank, uniformity


def test_alignment_of_hand_worked_pairs():
    first = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    second = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, -1.0], [6.0, 8.0]])  # squared distances 0, 2, 4 and 0
    assert alignment(first, second) == pytest.approx(6 / 4)
    assert math.isnan(alignment(first[:0], second[:0]))


def test_class_alignment_equals_the_mean_over_pairs_of_a_class():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(30, 6), torch.randint(0, 5, (30,))
    pairs = [(i, j) for i in range(30) for j in range(30) if i != j and labels[i] == labels[j]]
    first, second = zip(*pairs, strict=True)
    assert class_alignment(embeddings, labels) == pytest.approx(
        alignment(embeddings[list(first)], embeddings[list(second)])
    )
    assert math.isnan(class_alignment(embeddings[:2], torch.tensor([0, 1])))


def test_uniformity_equals_the_mean_over_pairs():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    terms = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(20) for j in range(20) if i != j]
    assert uniformity(5 * unit) == pytest.approx(math.log(sum(terms) / len(terms)), abs=1e-6)


def test_uniformity_at_its_extremes():
    assert uniformity(torch.ones(5, 4)) == pytest.approx(0, abs=1e-5)  # collapsed
    assert uniformity(torch.tensor([[1.0], [-1.0]])) == pytest.approx(-8)
    assert math.isnan(uniformity(torch.ones(1, 4)))


def test_of_many_texts_some_at_even_steps_are_compared(monkeypatch):
    torch.manual_seed(0)
    embeddings = torch.randn(9_000, 4)
    assert uniformity(embeddings) == pytest.approx(uniformity(embeddings[:4_000]), abs=0.02)
    monkeypatch.setattr(module, "_TEXTS_COMPARED", 4)
    for measure in (uniformity, effective_rank):
        assert measure(embeddings[:10]) == pytest.approx(measure(embeddings[[0, 3, 6, 9]]))


def test_effective_rank_counts_the_dimensions_that_are_filled():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.eye(3).repeat(4, 1)) == pytest.approx(3)  # texts that come again add none
    # hand-worked: singular values sqrt(3) and 1 of three vectors along one axis and one along another
    shares = np.array([3**0.5, 1]) / (3**0.5 + 1)
    rows = torch.tensor([[2.0, 0], [5.0, 0], [1.0, 0], [0, 3.0]])
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert math.isnan(effective_rank(torch.ones(0, 5)))
