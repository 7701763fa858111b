import pytest
import torch
from torch.testing import assert_close

from cosent.model.pooling import pool

STATES = torch.tensor([[1.0, -1.0], [3.0, -5.0], [7.0, 2.0], [0.0, 4.0], [2.0, 0.0], [-2.0, 2.0]])
LENGTHS = torch.tensor([2, 1, 3])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", [[2.0, -3.0], [7.0, 2.0], [0.0, 2.0]]),
        ("cls", [[1.0, -1.0], [7.0, 2.0], [0.0, 4.0]]),
        ("last", [[3.0, -5.0], [7.0, 2.0], [-2.0, 2.0]]),
        ("max", [[3.0, -1.0], [7.0, 2.0], [2.0, 4.0]]),
    ],
)
def test_hand_worked_texts(reduction, expected):
    assert_close(pool(STATES, LENGTHS, reduction), torch.tensor(expected))


@pytest.mark.parametrize("reduction", ["mean", "cls", "last", "max"])
def test_a_text_does_not_depend_on_its_neighbours_in_value_or_gradient(reduction):
    together = STATES.clone().requires_grad_()
    alone = STATES.clone().requires_grad_()
    pool(together, LENGTHS, reduction)[2].sum().backward()
    pool(alone[3:], LENGTHS[2:], reduction).sum().backward()
    assert_close(together.grad, alone.grad)


def test_half_precision_is_averaged_in_float32():
    states = torch.full((4000, 1), 0.1, dtype=torch.bfloat16)
    mean = pool(states, torch.tensor([4000]), "mean")
    assert mean.dtype == torch.float32
    assert_close(mean, states[:1].float())


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="got 'avg'"):
        pool(STATES, LENGTHS, "avg")
