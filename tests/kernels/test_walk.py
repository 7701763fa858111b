import torch
from torch import nn

from cosent.kernels.walk import modules_of, weights_of


def test_walks_find_what_torchs_find():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), nn.Linear(2, 3, bias=False)), nn.LayerNorm(3))
    model.scale = nn.Parameter(torch.ones(()))
    model[1].tied = shared.weight
    model.register_module("missing", None)
    assert set(modules_of(model)) == set(model.modules())
    found = weights_of(model)
    assert len(found) == len(set(found)) and set(found) == set(model.parameters())
