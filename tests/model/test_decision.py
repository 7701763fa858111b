import json
from dataclasses import asdict

import pytest

from cosent import CheckpointError
from cosent.calibration import Isotonic, Platt
from cosent.model.decision import Decision, read_decision
from cosent.model.stored import Stored

PLATT = Decision(0.5, "accuracy", 0.9, "dev.tsv", 100, 3.0, Platt(3.0, -1.5))
ISOTONIC = Decision(-0.2, "cost:5:1", -0.3, "dev.tsv", 100, None, Isotonic([0.1, 0.6], [0.2, 0.9]))


@pytest.mark.parametrize("decision", [PLATT, ISOTONIC, Decision(1.0, "f1", 0.5, "", 0)])
def test_a_decision_is_what_it_was_when_it_comes_back(decision):
    assert read_decision(Stored("config", json.loads(json.dumps(asdict(decision))))) == decision


@pytest.mark.parametrize(
    ("decision", "changed", "message"),
    [
        *(
            (PLATT, {"threshold": value}, "threshold must be")
            for value in (None, "0.5", True, [], 7, -2, 1e400, 10**400)
        ),
        (PLATT, {"threshold": float("nan")}, "threshold must be a finite number"),
        (PLATT, {"num_pairs": -1}, "num_pairs must be a whole number, 0 or more, got -1"),
        (PLATT, {"num_pairs": 1.5}, "num_pairs must be"),
        (PLATT, {"positive_label_min": "three"}, "positive_label_min must be"),
        (PLATT, {"metric": 1}, "metric must be a text"),
        (PLATT, {"calibration": []}, "calibration must be an object"),
        (PLATT, {"calibration": {"method": "beta"}}, "method must be platt or isotonic, got 'beta'"),
        (PLATT, {"calibration": {"method": "platt", "slope": -1, "intercept": 0}}, "slope must be"),
        (PLATT, {"calibration": {"method": "platt", "slope": 1}}, "intercept must be"),
    ],
)
def test_values_that_cannot_be_are_one_clear_error(decision, changed, message):
    with pytest.raises(CheckpointError, match=message):
        read_decision(Stored("config", asdict(decision) | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": [], "probabilities": []}, "at least one"),
        ({"scores": [0.1]}, "as many as there are scores"),
        ({"scores": [0.6, 0.1]}, "scores must be in ascending order"),
        ({"probabilities": [0.9, 0.2]}, "probabilities must be in ascending order"),
        ({"probabilities": [0.2, 1.2]}, r"probabilities\[1\] must be a finite number from 0 to 1, got 1.2"),
        ({"scores": [0.1, 8.0]}, r"scores\[1\] must be"),
        ({"scores": "ab"}, "scores must be a list of numbers"),
    ],
)
def test_tables_that_cannot_be_are_one_clear_error(changed, message):
    stored = asdict(ISOTONIC)
    stored["calibration"] |= changed
    with pytest.raises(CheckpointError, match=message):
        read_decision(Stored("config", stored))
