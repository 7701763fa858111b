import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cosent.evaluation.bootstrap import resampled_metrics
from cosent.evaluation.confusion import DECISION_METRICS
from cosent.evaluation.metrics import DECISION
from cosent.evaluation.scored import ScoredPairs

REFERENCES = {
    "accuracy": sklearn_metrics.accuracy_score,
    "precision": lambda truth, said: sklearn_metrics.precision_score(truth, said, zero_division=0),
    "recall": lambda truth, said: sklearn_metrics.recall_score(truth, said, zero_division=0),
    "f1": lambda truth, said: sklearn_metrics.f1_score(truth, said, zero_division=0),
    "mcc": sklearn_metrics.matthews_corrcoef,
}


@pytest.mark.parametrize("name", DECISION_METRICS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_each_metric_is_scikit_learns(name, share):
    generator = np.random.default_rng(0)
    truth, said = generator.random(50) < share, generator.random(50) < 0.6
    counts = (
        np.array(np.sum(a & b), float) for a, b in ((said, truth), (said, ~truth), (~said, truth), (~said, ~truth))
    )
    assert DECISION_METRICS[name](*counts) == pytest.approx(REFERENCES[name](truth, said), abs=1e-12)


def test_counts_of_millions_do_not_overflow():
    counts = [np.array(4e9), np.array(1e9), np.array(2e9), np.array(8e9)]
    assert DECISION_METRICS["mcc"](*counts) == pytest.approx((32 - 2) / np.sqrt(5 * 6 * 9 * 10), rel=1e-12)


def test_a_metric_of_the_table_is_reported_and_has_its_resamples():
    scores = np.linspace(0, 1, 40)
    pairs = ScoredPairs(scores, scores, np.arange(40), matches=scores > 0.4, threshold=0.5)
    assert set(DECISION) == {*DECISION_METRICS, "threshold"} <= set(pairs.metrics())
    assert DECISION_METRICS.keys() <= resampled_metrics(pairs, num_resamples=3).keys()
