import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cosent import calibration as module
from cosent.calibration import Isotonic, Platt, fit_calibration, fit_isotonic, fit_platt


def data(n, *, seed=0, curve=lambda s: 1 / (1 + np.exp(-12 * (s - 0.6)))):
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return scores, rng.random(n) < curve(scores)


def test_platt_is_the_logistic_regression_of_its_targets():
    scores, matches = data(300)
    positives, negatives = matches.sum(), (~matches).sum()
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    # each pair stands there twice, as a match and as none, with its target's weights
    targets = np.where(matches, high, low)
    rows = np.concatenate([scores, scores])[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        rows, np.repeat([1, 0], 300), np.concatenate([targets, 1 - targets])
    )
    found = fit_platt(scores, matches)
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.intercept == pytest.approx(reference.intercept_[0], rel=1e-4)
    assert found(scores).mean() == pytest.approx(targets.mean(), abs=1e-9)


def test_platt_knows_the_curve_that_made_the_data():
    found = fit_platt(*data(200_000))
    assert (found.slope, found.intercept) == pytest.approx((12, -7.2), rel=0.02)


@pytest.mark.parametrize("scores", [np.full(10, 0.3), np.linspace(1, 0, 10)])
def test_scores_that_say_nothing_or_the_contrary_give_one_probability(scores):
    matches = np.arange(10) >= 6
    found = fit_platt(scores, matches)
    assert found.slope == 0
    assert found([0.0, 1.0]) == pytest.approx(np.repeat((4 * 5 / 6 + 6 * 1 / 8) / 10, 2))


def test_platt_of_two_scores_meets_the_mean_target_of_each():
    # ten of each score, of which 4 and 6 match; a match aims at 11/12, another at 1/12
    found = fit_platt(np.repeat([0.0, 1.0], 10), np.tile(np.arange(10), 2) < np.repeat([4, 6], 10))
    assert found([0.0, 1.0]) == pytest.approx([(4 * 11 + 6) / 120, (6 * 11 + 4) / 120])


def test_isotonic_pools_scores_by_how_often_they_are_there():
    assert fit_isotonic([0.2, 0.2, 0.2, 0.7], [True, True, True, False])([0.2, 0.7]) == pytest.approx([3 / 4, 3 / 4])


def test_separable_data_does_not_make_platt_certain():
    found = fit_platt(np.linspace(0, 1, 20), np.arange(20) >= 10)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert 0 < found(0.0) < 0.2 < 0.8 < found(1.0) < 1


@pytest.mark.parametrize("tied", [False, True])
def test_isotonic_equals_scikit_learns_and_is_never_certain(tied):
    scores, matches = data(500)
    scores = scores.round(1) if tied else scores
    bounds = {"y_min": 1 / 502, "y_max": 1 - 1 / 502, "out_of_bounds": "clip"}
    reference = IsotonicRegression(**bounds).fit(scores, matches)
    at = np.linspace(-0.2, 1.2, 1001)
    np.testing.assert_allclose(fit_isotonic(scores, matches)(at), reference.predict(at), atol=1e-12)


def test_enough_data_off_the_logistic_curve_is_fitted_freely():
    clusters = np.arange(4_000) // 2
    step = data(4_000, curve=lambda s: np.where(s < 0.3, 0.1, np.where(s < 0.7, 0.5, 0.6)))
    assert fit_calibration(*step, clusters) == fit_isotonic(*step)
    assert fit_calibration(*data(4_000), clusters) == fit_platt(*data(4_000))
    enough, few = ((step[0][:n], step[1][:n]) for n in (1_000, 999))
    assert fit_calibration(*enough, clusters[:1_000]) == fit_isotonic(*enough)
    assert fit_calibration(*few, clusters[:999]) == fit_platt(*few)
    assert fit_calibration(*few, clusters[:999], "isotonic") == fit_isotonic(*few)
    assert fit_calibration(*step, clusters, "platt") == fit_platt(*step)
    assert fit_calibration(*step, clusters, "none") is None
    assert fit_calibration([0.1, 0.2], [True, True], [0, 1]) is None
    assert fit_calibration([0.1, 0.2], [False, False], [0, 1]) is None


def test_each_pair_is_left_out_once_in_five_folds(monkeypatch):
    fitted = []
    monkeypatch.setattr(module, "fit_isotonic", lambda *pairs: fitted.append(pairs[0]) or fit_isotonic(*pairs))
    scores, matches = data(1_500)
    fit_calibration(scores, matches, np.arange(1_500) // 3)
    left_out = [np.setdiff1d(scores, some) for some in fitted if len(some) < 1_500]
    assert [len(fold) for fold in left_out] == [300] * 5
    assert np.array_equal(np.sort(np.concatenate(left_out)), np.sort(scores))


def test_the_folds_keep_pairs_that_depend_on_each_other_together():
    """A thousand copies of few pairs: told apart in folds by row, their noise would look like a curve."""
    scores, matches = data(40, seed=1, curve=lambda s: np.full_like(s, 0.5))
    scores, matches, clusters = (np.repeat(x, 50) for x in (scores, matches, np.arange(40)))
    assert isinstance(fit_calibration(scores, matches, clusters), Platt)
    assert isinstance(fit_calibration(scores, matches, np.arange(2_000)), Isotonic)
