import json
from dataclasses import asdict, replace

import pytest

from cosent import CheckpointError
from cosent.calibration import Isotonic, Platt
from cosent.model.decision import Decision, decided_by_hand, read_decision
from cosent.model.stored import Stored

PLATT = Decision(0.5, "accuracy", 0.9, "dev.tsv", 100, 3.0, Platt(3.0, -1.5))
ISOTONIC = Decision(-0.2, "cost:5:1", -0.3, "dev.tsv", 100, None, Isotonic([0.1, 0.6], [0.2, 0.9]))


BYTES = replace(PLATT, precision="int8", truncate_dim=2, ranges=[[-0.5, 0.0], [0.25, 0.0]])


@pytest.mark.parametrize("decision", [PLATT, ISOTONIC, BYTES, Decision(1.0, "f1", 0.5, "", 0), decided_by_hand(0.7)])
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
        (PLATT, {"value": None}, "value must be a finite number, got None"),
        (BYTES, {"precision": "int4"}, "precision must be one of float32, int8, .* got 'int4'"),
        (BYTES, {"precision": 8}, "precision must be a text, got 8"),
        (BYTES, {"truncate_dim": 0}, "truncate_dim must be a whole number, 1 or more, got 0"),
        *(
            (BYTES, {"ranges": value}, "ranges must be a list of the smallest values and one of the largest")
            for value in (None, [], [[0.0]], "ab", {"low": [0.0]})
        ),
        (BYTES, {"ranges": [[0.0, 0.0], [1.0, None]]}, r"ranges\[1\]\[1\] must be a finite number"),
        (BYTES, {"ranges": [[0.0], [1.0, 1.0]]}, "two lists of one length"),
        (BYTES, {"ranges": [[0.0, 2.0], [1.0, 1.0]]}, "the smallest values before the largest"),
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


def test_a_decision_says_where_it_comes_from():
    assert str(PLATT) == "0.5000 (the best accuracy on dev.tsv, 100 pairs)"
    assert str(BYTES) == "0.5000 (the best accuracy on dev.tsv, 100 pairs, 2 dimensions, int8)"
    assert str(decided_by_hand(0.7)) == "0.7000 (set by hand)"
