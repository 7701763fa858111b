import numpy as np

from cosent.data.splits import split_by_component


def test_examples_that_share_a_text_through_others_are_held_out_together():
    examples = [("a", "b"), ("c", "d", "x"), ("b", "e"), ("x",), ("f",)]
    for seed in range(20):
        held_out = set(split_by_component(examples, 0.5, seed)[1].tolist())
        assert ({0, 2} <= held_out) == bool({0, 2} & held_out)
        assert ({1, 3} <= held_out) == bool({1, 3} & held_out)


def test_no_text_is_on_both_sides_and_every_pair_on_one():
    rng = np.random.default_rng(0)
    pairs = [(f"t{a}", f"t{b}") for a, b in rng.integers(0, 600, (300, 2))]
    kept, held_out = split_by_component(pairs, 0.1, seed=1)
    assert sorted([*kept, *held_out]) == list(range(300))
    assert 0 < len(held_out) <= 30
    assert not {t for i in kept for t in pairs[i]} & {t for i in held_out for t in pairs[i]}


def test_the_seed_decides():
    pairs = [(f"a{i}", f"b{i}") for i in range(100)]
    first, again, other = (split_by_component(pairs, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20
