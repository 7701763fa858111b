from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cosent.evaluation.comparison import disagreements, mcnemar, paired_differences
from tests.evaluation.test_bootstrap import scored


def test_a_model_beside_itself_is_no_different():
    pairs = scored()
    for difference in paired_differences(pairs, pairs, num_resamples=50).values():
        assert (difference.value, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
    assert mcnemar(pairs, pairs).p_value == 1


def test_a_paired_interval_is_narrower_than_what_two_intervals_leave():
    first = scored(600, 200)
    noise = np.random.default_rng(1).normal(0, 0.1, 600)
    second = replace(first, scores=first.scores + 0.1 * first.matches + noise)
    found = paired_differences(first, second, num_resamples=300)["spearman"]
    assert found.first < found.second
    assert 0 < found.low < found.value < found.high
    assert found.p_value == pytest.approx(2 / 301)  # no draw has the other sign
    back = paired_differences(second, first, num_resamples=300)["spearman"]
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert paired_differences(first, second, num_resamples=300, seed=1)["spearman"].low != found.low


def test_models_are_compared_by_what_both_say():
    both = scored()
    for pair in ((both, replace(both, threshold=None)), (replace(both, threshold=None), both)):
        assert {"spearman", "ece"} <= set(found := paired_differences(*pair, num_resamples=5))
        assert "accuracy" not in found


def test_models_are_compared_on_the_same_pairs():
    with pytest.raises(ValueError, match="same pairs"):
        paired_differences(scored(), scored(seed=1))


def test_one_group_of_pairs_says_nothing_about_a_difference():
    first = replace(scored(200), clusters=np.zeros(200, dtype=np.int64))
    second = replace(first, scores=first.scores + np.random.default_rng(0).normal(0, 0.01, 200))
    for difference in paired_differences(first, second).values():
        assert np.isnan([difference.low, difference.high, difference.p_value]).all()


def test_both_are_measured_by_one_truth():
    first = scored()
    second = replace(first, matches=first.labels > 0.4)
    for compare in (mcnemar, paired_differences):
        with pytest.raises(ValueError, match="with the same truth"):
            compare(first, second)
    with pytest.raises(ValueError, match="with the same truth"):
        mcnemar(first, replace(first, matches=None))


def test_mcnemar_is_the_binomial_test_of_what_one_alone_decides_right():
    pairs = scored()
    matches = np.arange(60) < 30
    right = matches.astype(float)
    first = replace(pairs, matches=matches, scores=right.copy(), threshold=1.0)  # which a score may equal
    second = replace(first, scores=right.copy())
    first.scores[:9] = 0  # nine wrong, of which the second is wrong about one, too
    second.scores[8:11] = 0
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (2, 8)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(2, 10, 0.5))
    with pytest.raises(ValueError, match="need a threshold"):
        mcnemar(first, replace(second, threshold=None))
    with pytest.raises(ValueError, match="to say what matches"):
        mcnemar(replace(first, matches=None), replace(second, matches=None))


def test_the_pairs_that_two_models_rank_most_differently_come_first():
    first = replace(scored(5), scores=np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    second = replace(first, scores=np.array([0.91, 0.95, 0.93, 0.94, 0.9]))  # ranks 2, 5, 3, 4, 1
    assert disagreements(first, second).tolist() == [4, 1, 0, 2, 3]
