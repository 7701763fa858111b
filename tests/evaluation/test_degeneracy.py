from dataclasses import replace

import numpy as np
import pytest

from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation
from tests.evaluation.test_bootstrap import scored

SOUND = {"n": 600, "uniformity": -2.0, "effective_rank": 60.0}


def test_nothing_is_said_of_a_sound_result():
    assert warnings_of(Evaluation(SOUND, scored(600, 500), {"spearman": (0.80, 0.84)})) == []
    assert warnings_of(Evaluation(SOUND)) == []
    graded = replace(scored(600, 500), matches=None, threshold=None, probabilities=None)
    assert warnings_of(Evaluation(SOUND, graded)) == []
    assert warnings_of(Evaluation(SOUND, intervals={"mrr": (0.80, 0.84)})) == []  # of triplets: there are no pairs
    assert warnings_of(Evaluation({**SOUND, "n": 1, "effective_rank": 1.0})) == []  # nothing to be apart from


@pytest.mark.parametrize("metrics", [{"uniformity": -0.01}, {"effective_rank": 1.1}])
def test_a_collapse_is_named(metrics):
    (warning,) = warnings_of(Evaluation({**SOUND, **metrics}))
    assert warning.startswith("embeddings have collapsed")


def test_constant_scores_and_one_truth_are_named():
    pairs = scored()
    (warning,) = warnings_of(Evaluation(SOUND, replace(pairs, scores=np.full(60, 0.98))))
    assert warning.startswith("every score is 0.9800")
    (warning,) = warnings_of(Evaluation(SOUND, replace(pairs, matches=np.ones(60, bool))))
    assert warning.startswith("every pair matches")
    (warning,) = warnings_of(Evaluation(SOUND, replace(pairs, matches=np.zeros(60, bool))))
    assert warning.startswith("no pair matches")


def test_scores_of_one_vector_differ_by_rounding_alone():
    pairs = replace(scored(), scores=0.98 + np.arange(60) * 1e-8)
    assert warnings_of(Evaluation(SOUND, pairs))[0].startswith("every score is 0.9800")


def test_a_curve_that_had_to_be_level_and_an_interval_without_width_are_named():
    (warning,) = warnings_of(Evaluation(SOUND, replace(scored(), probabilities=np.full(60, 0.4))))
    assert "higher scores were not more often a match" in warning
    (warning,) = warnings_of(Evaluation(SOUND, scored(600, 500), {"accuracy": (1.0, 1.0), "spearman": (0.8, 0.85)}))
    assert warning.startswith("no example speaks against accuracy")


def test_data_that_is_too_small_or_hangs_together_is_named():
    few = Evaluation({**SOUND, "n": 60}, scored(60, 60), {"spearman": (0.5, 0.7)})
    assert warnings_of(few)[0] == (
        "spearman could be anywhere from 0.500 to 0.700: 60 examples are too few to tell models apart whose figures "
        "differ by less"
    )
    (warning,) = warnings_of(Evaluation(SOUND, scored(60, 10), {"spearman": (0.5, 0.55)}))
    assert warning.startswith("intervals are not to be relied on") and "only 10 groups" in warning
    (warning,) = warnings_of(Evaluation(SOUND, scored(60, 5), {"spearman": (np.nan, np.nan)}))
    assert warning.startswith("there are no intervals")
    clusters = np.where(np.arange(600) < 200, 0, np.arange(600))
    (warning,) = warnings_of(Evaluation(SOUND, replace(scored(600), clusters=clusters), {"spearman": (0.5, 0.55)}))
    assert "the largest of 200" in warning
