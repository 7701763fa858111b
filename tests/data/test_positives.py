import numpy as np

from cosent.data.layouts import Example
from cosent.data.positives import PositiveGroups, is_match, matching_pairs

PAIRS = [("a", "b"), ("a", "x"), ("c", "d"), ("a", "y"), ("a", "e"), ("a", "x"), ("z", "a")]
MATCHES = np.array([True, False, True, False, True, False, False])


def test_what_counts_as_a_match():
    assert is_match(np.array([0.0, 1.0, 1.0])).tolist() == [False, True, True]
    assert is_match(np.array([0.0, 1.0, 2.0])) is None
    assert is_match(np.array([0.0, 3.0, 4.0]), 3).tolist() == [False, True, True]
    assert is_match(np.array([0.0, 1.0]), 0.5).tolist() == [False, True]
    assert is_match(np.array([0.0, 1.0]), 4).tolist() == [False, True]  # a minimum for the graded training data


def test_pairs_that_match_become_anchors_and_positives():
    assert list(matching_pairs(PAIRS, MATCHES)) == [Example(("a", "b")), Example(("c", "d")), Example(("a", "e"))]


def test_pairs_that_do_not_match_give_hard_negatives_of_their_first_text():
    found = list(matching_pairs(PAIRS, MATCHES, use_negatives=True))
    assert found == [Example(("a", "b", "x", "y")), Example(("c", "d")), Example(("a", "e", "x", "y"))]


def test_texts_that_match_through_others_are_one_group():
    groups = PositiveGroups.of_pairs(np.array([[7, 5], [1, 2], [5, 9], [-4, 3], [2, 1]]))
    assert groups(np.array([5, 9, 7, 2, 1, 3, -4])).tolist() == [5, 5, 5, 1, 1, -4, -4]


def test_a_text_of_no_positive_pair_is_a_group_of_its_own():
    groups = PositiveGroups.of_pairs(np.array([[7, 5]]))
    assert groups(np.array([6, 100, -100])).tolist() == [6, 100, -100]
    assert PositiveGroups.of_pairs(np.empty((0, 2), np.int64))(np.array([3])).tolist() == [3]


def test_groups_equal_a_search_through_the_graph():
    rng = np.random.default_rng(0)
    pairs = rng.integers(-(2**62), 2**62, 200)[rng.integers(0, 200, (120, 2))]
    groups = PositiveGroups.of_pairs(pairs)
    neighbors: dict = {}
    for a, b in pairs.tolist():
        neighbors.setdefault(a, set()).add(b)
        neighbors.setdefault(b, set()).add(a)
    for text in neighbors:
        reached, pending = {text}, [text]
        while pending:
            pending += (new := neighbors[pending.pop()] - reached)
            reached |= new
        assert groups(np.array([text])).item() == min(reached)
