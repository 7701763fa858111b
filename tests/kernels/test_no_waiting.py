"""What a GPU would be asked for by a step: tensors on the "meta" device have no data, so any question for it raises."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from cosent import AnglELoss, BatchHardTripletLoss, CoSENTLoss, InfoNCELoss
from cosent.kernels import attention as attention_module
from cosent.kernels.attention import KERNELS
from cosent.kernels.packing import PACKABLE, token_states, use_packed_attention
from cosent.model.pooling import pool
from tests.kernels.test_packing import backbone_of

LENGTHS = [5, 1, 64, 2, 5, 17, 64, 1]
LOSSES = {
    "cosent": (CoSENTLoss(), 2, "scores"),
    "angle": (AnglELoss(), 2, "scores"),
    "infonce": (InfoNCELoss(symmetric=True), 3, None),
    "infonce, all": (InfoNCELoss(negatives="all"), 2, None),
    "batch-hard": (BatchHardTripletLoss(), 1, "classes"),
    "batch-hard, all": (BatchHardTripletLoss(mining="all", distance="cosine"), 1, "classes"),
    "batch-hard, semi-hard": (BatchHardTripletLoss(mining="semi_hard"), 1, "classes"),
}


@pytest.fixture(autouse=True)
def without_data(monkeypatch):
    """Autocast does not know the device, and the kernels for CUDA take its place."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: False)
    kernels = {
        name: replace(kernel, device="meta", capability=(0, 0), is_there=name == "flash")
        for name, kernel in KERNELS.items()
        if kernel.device == "cuda"
    }
    monkeypatch.setattr(attention_module, "KERNELS", kernels)


@pytest.mark.parametrize("model_type", sorted(PACKABLE))
def test_the_encoder_asks_for_nothing(model_type):
    backbone = backbone_of(model_type)
    use_packed_attention(backbone)
    backbone.train().to("meta", torch.bfloat16)
    lengths = torch.tensor(LENGTHS, device="meta")
    input_ids = torch.empty(sum(LENGTHS), dtype=torch.int64, device="meta")
    states = token_states(backbone, input_ids, lengths, max_length=64)
    embeddings = torch.cat([pool(states, lengths, kind) for kind in ("mean", "max", "cls", "last")])
    assert embeddings.shape == (4 * len(LENGTHS), 32)
    embeddings.sum().backward()
    assert sum(weight.grad is not None for weight in backbone.parameters()) > 10


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_statistics_ask_for_nothing(name):
    loss, columns, kind = LOSSES[name]
    embeddings = torch.empty(columns, 16, 8, device="meta", requires_grad=True)
    labels = {"scores": torch.empty(16, device="meta"), "classes": torch.empty(16, dtype=torch.int64, device="meta")}
    text_ids = torch.empty(columns * 16, dtype=torch.int64, device="meta")
    loss(embeddings, labels.get(kind), text_ids).backward()
    assert embeddings.grad.shape == embeddings.shape
    assert all(value.ndim == 0 for value in loss.statistics(embeddings.detach(), labels.get(kind), text_ids).values())


def test_no_number_of_the_cpu_is_written_by_index(monkeypatch):
    """On a GPU it would be copied there first, which waits; a device without data does not notice."""
    written, write = [], torch.Tensor.__setitem__

    def watched(tensor, place, value):
        written.append((place, value))
        write(tensor, place, value)

    monkeypatch.setattr(torch.Tensor, "__setitem__", watched)
    for loss, columns, kind in LOSSES.values():
        labels = {"scores": torch.rand(16), "classes": torch.arange(16) // 4}.get(kind)
        loss(torch.randn(columns, 16, 8), labels, torch.arange(columns * 16))
    assert written and all(isinstance(value, torch.Tensor) for _, value in written)


def test_a_question_for_data_raises():
    with pytest.raises(RuntimeError):
        int(torch.empty(3, device="meta").max())
