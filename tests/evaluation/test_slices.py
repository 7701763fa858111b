import numpy as np
import pytest

from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.slices import by_label, by_length, by_overlap, overlap


def pairs(scores, matches, labels=None):
    matches = np.array(matches, dtype=bool)
    labels = matches.astype(float) if labels is None else np.array(labels, dtype=float)
    return ScoredPairs(np.array(scores, dtype=float), labels, np.arange(len(scores)), matches, 0.5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("abc", "abc", 1),
        ("abcd", "bcd", 2 / 3),
        ("ab", "cd", 0),
        ("a", "a", 1),
        ("a", "b", 0),
        ("你好吗", "你好", 1 / 2),
    ],
)
def test_overlap_is_the_share_of_common_bigrams(first, second, expected):
    assert overlap(first, second) == overlap(second, first) == pytest.approx(expected)


def test_quarters_by_length_hold_all_pairs_and_their_own_accuracy():
    texts = [["x" * n, "y"] for n in range(1, 9)]
    found = by_length(pairs([0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1], [1, 1, 1, 1, 0, 0, 1, 1]), texts)
    assert [part.n for part in found] == [2, 2, 2, 2]
    assert [part.name for part in found] == [f"{n} to {n + 1} characters" for n in (2, 4, 6, 8)]
    assert [part.metrics["accuracy"] for part in found] == [1, 0.5, 0.5, 0]
    assert [part.mean_score for part in found] == pytest.approx([0.9, 0.5, 0.5, 0.1])


def test_equal_values_are_not_torn_apart():
    found = by_overlap(pairs([0.9, 0.1, 0.9, 0.1], [1, 0, 0, 0]), [["ab", "AB"]] * 3 + [["ab", "cd"]])
    assert [(part.name, part.n) for part in found] == [("overlap 0.00 to 0.00", 1), ("overlap 1.00 to 1.00", 3)]
    assert found[1].metrics["accuracy"] == pytest.approx(2 / 3)


def test_a_slice_for_each_label_if_they_are_few():
    found = by_label(pairs([0.9, 0.1, 0.9], [1, 0, 1], [5, 1, 5]))
    assert [(part.name, part.n, part.metrics["accuracy"]) for part in found] == [("label 1", 1, 1), ("label 5", 2, 1)]
    assert len(by_label(pairs(np.zeros(12), np.zeros(12), np.arange(12)))) == 12
    assert by_label(pairs(np.zeros(13), np.zeros(13), np.arange(13))) == []
