import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cosent.kernels.dropout import Dropout, keep_mask, use_fast_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_mean_kept(rate, dtype):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1001, 1003, dtype=dtype), rate)
    dropped = (mask == 0).double().mean().item()
    assert dropped == pytest.approx(rate, abs=5 * (rate * (1 - rate) / mask.numel()) ** 0.5 + 2**-17)
    assert mask.dtype == dtype
    kept = mask[mask != 0].unique()
    assert_close(kept.double(), torch.tensor([1 / (1 - rate)]).double(), rtol=2**-8, atol=0)
    # neither rows nor neighbours, four of which share a draw, go together
    for other in (mask[:, 1:], mask[:, 3:], mask[:, 4:]):
        both = ((mask[:, : other.shape[1]] == 0) & (other == 0)).double().mean().item()
        assert both == pytest.approx(rate**2, rel=0.05, abs=3e-5)


def test_gradients_pass_where_values_do():
    x = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.4)(x)
    assert_close(out, torch.where(out == 0, 0, x / 0.6), rtol=1e-4, atol=0)
    out.backward(torch.ones_like(out))
    assert_close(x.grad, torch.where(out == 0, 0.0, 1 / 0.6), rtol=1e-4, atol=0)


def test_masks_follow_torchs_seed_and_evaluation_has_none():
    x = torch.ones(1000)
    layer = Dropout(0.3)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(layer(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(1.0)(x).sum() == 0


def test_every_dropout_of_a_module_is_replaced():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.25), nn.AlphaDropout(0.5))).eval()
    use_fast_dropout(module)
    assert type(module[1][0]) is Dropout
    assert module[1][0].p == 0.25
    assert not module[1][0].training
    assert type(module[1][1]) is nn.AlphaDropout
