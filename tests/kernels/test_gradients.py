import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cosent.kernels.gradients import FlatGradients


def random_weights():
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (70,), ())]


def gradients_like(weights):
    return [torch.randn_like(weight) for weight in weights]


def test_they_add_up_until_they_are_cleared():
    weights = random_weights()
    flat = FlatGradients(weights)
    first, second, third = (gradients_like(weights) for _ in range(3))
    flat.attach()
    flat.add(first)
    flat.attach()  # the next of several passes for one step
    flat.add(second)
    for weight, one, other in zip(weights, first, second, strict=True):
        assert_close(weight.grad, one + other)
    for weight in weights:
        weight.grad = None
    flat.attach()
    flat.add(third)
    for weight, grad in zip(weights, third, strict=True):
        assert torch.equal(weight.grad, grad)


def test_gradients_of_unrecorded_passes_are_kept():
    weights = random_weights()
    flat = FlatGradients(weights)
    flat.attach()
    flat.add(gradients_like(weights))
    elsewhere = torch.randn(3, 5)
    weights[0].grad, weights[1].grad = elsewhere.clone(), None
    kept = weights[2].grad.clone()
    flat.attach()
    assert torch.equal(weights[0].grad, elsewhere)
    assert torch.equal(weights[1].grad, torch.zeros(70))
    assert torch.equal(weights[2].grad, kept)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_torchs(max_norm):
    weights, model = random_weights(), nn.ParameterList(random_weights())
    flat = FlatGradients(weights)
    flat.attach()
    flat.add(grads := gradients_like(weights))
    for weight, grad in zip(model, grads, strict=True):
        weight.grad = grad.clone()
    expected = nn.utils.clip_grad_norm_(model, max_norm)
    assert_close(flat.clip(max_norm), expected)
    for weight, other in zip(weights, model, strict=True):
        assert_close(weight.grad, other.grad)


def test_they_tell_whose_they_are():
    weights, others = random_weights(), random_weights()
    flat = FlatGradients(weights)
    assert flat.are_of(list(weights))
    assert not any(flat.are_of(some) for some in (others, weights[:2], [*weights, others[0]], weights[::-1], []))


def test_weights_of_several_types_are_refused():
    with pytest.raises(RuntimeError, match="several types or devices: .*float32.*|.*bfloat16.*"):
        FlatGradients([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))])
