from dataclasses import replace

import numpy as np
import pytest

from cosent.evaluation import bootstrap
from cosent.evaluation.bootstrap import interval, intervals, resampled_means, resampled_metrics
from cosent.evaluation.scored import ScoredPairs


def scored(n=60, num_clusters=14, *, tied=False, seed=0) -> ScoredPairs:
    rng = np.random.default_rng(seed)
    matches = rng.random(n) < 0.4
    scores = np.clip(0.3 * matches + rng.normal(0.4, 0.2, n), -1, 1)
    scores = scores.round(1) if tied else scores
    labels = (matches + rng.integers(0, 3, n) / 2).astype(float)
    clusters = 100 * rng.integers(0, num_clusters, n)
    return ScoredPairs(scores, labels, clusters, matches, 0.55, rng.random(n).round(2))


def drawn_rows(pairs: ScoredPairs, number: int, seed: int) -> np.ndarray:
    """The rows of one draw, cluster by cluster, as a loop would collect them."""
    names = np.unique(pairs.clusters)
    draws = np.random.default_rng(seed).integers(len(names), size=(number + 1, len(names)))[number]
    return np.concatenate([np.flatnonzero(pairs.clusters == names[c]) for c in draws])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_each_resample_has_the_metrics_of_the_rows_that_were_drawn(tied, at_once, monkeypatch):
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", at_once)
    pairs = scored(tied=tied)
    found = resampled_metrics(pairs, num_resamples=20, seed=3)
    expected_names = set(pairs.metrics()) - {"threshold"} - {name for name in pairs.metrics() if "best" in name}
    assert set(found) == expected_names
    for number in range(20):
        expected = pairs.select(drawn_rows(pairs, number, seed=3)).metrics()
        for name in expected_names:
            assert found[name][number] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_a_draw_that_leaves_a_metric_undefined_is_not_counted():
    # twelve clusters, only one of which matches: in a third of the draws it is not there
    labels = np.array([0.7] * 2 + [0.3] * 22)
    scores = np.where(labels > 0.5, 0.9, 0.1) + np.arange(24) / 1000
    pairs = ScoredPairs(scores, labels, np.arange(24) // 2, labels > 0.5)
    found = resampled_metrics(pairs, num_resamples=300)
    one_label = np.isnan(found["roc_auc"])
    assert 0.25 < one_label.mean() < 0.45  # (11 / 12) ** 12 = 0.352
    for name in ("spearman", "pearson", "average_precision"):
        assert np.array_equal(np.isnan(found[name]), one_label)
    assert intervals(found)["roc_auc"] == (1.0, 1.0)
    assert np.isnan(interval([np.nan])).all()


def test_an_interval_leaves_out_as_many_values_at_either_end():
    values = np.random.default_rng(0).permutation(1001)
    assert interval(values) == pytest.approx((25, 975))  # 95% of them, in the middle
    assert interval(values, 0.8) == pytest.approx((100, 900))


def test_too_few_clusters_have_no_interval():
    pairs = scored(60, 9)
    assert len(np.unique(pairs.clusters)) == 9
    for values in (resampled_metrics(pairs), resampled_means({"score": pairs.scores}, pairs.clusters)):
        assert all(np.isnan(numbers).all() for numbers in values.values())
    assert np.isnan(intervals(resampled_metrics(pairs))["spearman"]).all()
    enough = scored(60, 10)
    assert len(np.unique(enough.clusters)) == 10
    assert np.isfinite(intervals(resampled_metrics(enough))["spearman"]).all()


def test_metrics_are_those_of_what_is_known_of_the_pairs():
    pairs = scored()
    decisions, calibration = {"accuracy", "precision", "recall", "f1", "mcc"}, {"ece", "brier"}
    every = set(resampled_metrics(pairs, num_resamples=1))
    for unknown, left_out in (
        ({"threshold": None}, decisions),
        ({"probabilities": None}, calibration),
        ({"matches": None}, every - {"spearman", "pearson"}),
    ):
        assert set(resampled_metrics(replace(pairs, **unknown), num_resamples=1)) == every - left_out


def test_the_calibration_error_has_no_interval_since_resampling_adds_to_it():
    pairs = scored()
    assert "ece" not in intervals(resampled_metrics(pairs))
    assert resampled_metrics(pairs)["ece"].mean() > pairs.metrics()["ece"]


def test_pairs_that_share_texts_make_the_interval_wider_and_it_covers_what_it_should():
    """Ten pairs a cluster are right or wrong together: the accuracy of 400 pairs is no more certain than of 40."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 10)
    covered, covered_by_rows = [], []
    for number in range(120):
        right = np.repeat(rng.random(40) < 0.7, 10)
        matches = rng.random(400) < 0.5
        scores = np.where(right == matches, 0.9, 0.1)
        for ids, hits in ((clusters, covered), (np.arange(400), covered_by_rows)):
            pairs = ScoredPairs(scores, matches.astype(float), ids, matches, 0.5)
            low, high = interval(resampled_metrics(pairs, num_resamples=200, seed=number)["accuracy"])
            hits.append(low <= 0.7 <= high)
    assert np.mean(covered) > 0.88
    assert np.mean(covered_by_rows) < 0.6


def test_the_same_seed_draws_the_same():
    one, two, other = (resampled_metrics(scored(), num_resamples=9, seed=seed)["spearman"] for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_each_resampled_mean_is_that_of_the_values_that_were_drawn():
    pairs = scored()
    values = {"score": pairs.scores, "label": np.where(pairs.matches, pairs.labels, np.nan)}
    found = resampled_means(values, pairs.clusters, num_resamples=20, seed=3)
    for number in range(20):
        rows = drawn_rows(pairs, number, seed=3)
        for name, numbers in values.items():
            assert found[name][number] == pytest.approx(np.nanmean(numbers[rows])), name
