"""A run that is ended, or fails, at some operation on a file: resumed, it comes to the same end."""

import pytest

from tests.faults.harness import FAULTS, Harness, sample

NUM_POINTS, SEED = 12, 1


@pytest.fixture(scope="module")
def harness(tiny_bert, tmp_path_factory):
    return Harness(tiny_bert, tmp_path_factory.mktemp("faults"))


def test_the_operations_of_a_run_are_seen(harness):
    seen = [operation for _, operation, _ in harness.points()]
    for operation in (
        "save .unfinished/checkpoint-2/model.safetensors",
        "save .unfinished/checkpoint-2/optimizer.pt",
        "write .unfinished/checkpoint-3/trainer_state.json",
        "os.rename .unfinished/checkpoint-3",
        "os.remove checkpoint-2/optimizer.pt",
        "save model.safetensors",
        "os.rename .unfinished/training.html",
    ):
        assert seen.count(operation) >= len(FAULTS), operation


def test_a_run_that_meets_a_fault_comes_to_the_same_end(harness):
    """A sample; `python -m tests.faults.harness` tries them all."""
    points = sample(harness.points(), NUM_POINTS, SEED)
    troubles = {point: trouble for point in points if (trouble := harness.trouble(point))}
    assert not troubles
