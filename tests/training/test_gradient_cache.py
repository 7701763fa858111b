import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cosent import BatchHardTripletLoss, CoSENTLoss, InfoNCELoss, SentenceBert
from cosent.training.gradient_cache import Piece, cut, embed_pieces, filler

LENGTHS = torch.tensor([3, 9, 1, 4, 9, 2, 7, 5, 6, 3, 2, 8])  # N = 12, T = 59

# a loss, how many columns it sees, and its labels
LOSSES = {
    "cosent": (CoSENTLoss(), 2, torch.tensor([0.0, 1, 2, 1, 0, 3])),
    "infonce": (InfoNCELoss(symmetric=True), 3, None),
    "simcse": (InfoNCELoss(negatives="all"), 2, None),
    "batch_hard": (BatchHardTripletLoss(margin=0.5), 1, torch.arange(12) % 3),
}


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randint(5, 100, (int(LENGTHS.sum()),)), LENGTHS


@pytest.fixture
def make_model(tiny_bert):
    def make(**options) -> SentenceBert:
        return SentenceBert(tiny_bert, device="cpu", **{"dropout": 0.0, **options}).train()

    return make


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model, batch, loss_name, max_tokens=None, embed=None):
    """Loss and gradients of one batch, at once or in pieces."""
    loss, columns, labels = LOSSES[loss_name]
    model.zero_grad()
    if max_tokens is None:
        embeddings = model(*batch)
    else:
        pieces = cut(*batch, max_tokens)
        embeddings = embed_pieces(embed or model, pieces)
    value = loss(embeddings.view(columns, -1, embeddings.shape[-1]), labels)
    value.backward()
    return value.detach(), gradients(model)


def test_lengths_on_the_cpu_make_the_same_pieces(batch):
    input_ids, lengths = batch
    pieces = cut(input_ids, lengths, 20)
    same = cut(input_ids, lengths, 20, host_lengths=lengths.int().numpy())
    for one, other in zip(pieces, same, strict=True):
        assert one.max_length == other.max_length
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor))
    # nothing is asked of a device that has no data
    empty = cut(input_ids.to("meta"), lengths.to("meta"), 20, host_lengths=lengths.numpy())
    assert [piece.input_ids.shape for piece in empty] == [piece.input_ids.shape for piece in pieces]


@pytest.mark.parametrize("max_tokens", [1, 10, 25, 1000])
def test_pieces_hold_every_text_once_and_no_more_tokens_than_asked(batch, max_tokens):
    input_ids, lengths = batch
    pieces = cut(input_ids, lengths, max_tokens)
    texts = {}
    for piece in pieces:
        texts |= dict(zip(piece.places.tolist(), piece.input_ids.split(piece.lengths.tolist()), strict=True))
    assert sorted(texts) == list(range(len(lengths)))
    for place, text in enumerate(input_ids.split(lengths.tolist())):
        assert torch.equal(texts[place], text)
    for piece in pieces:
        assert len(piece.input_ids) <= max_tokens or len(piece.lengths) == 1
        assert piece.max_length == piece.lengths.max()
    if max_tokens in (10, 25):
        assert len(pieces) < 1.6 * math.ceil(59 / max_tokens)


def test_pieces_are_as_even_as_whole_texts_allow():
    lengths = torch.tensor([7, 3] * 100)
    pieces = cut(torch.arange(1000), lengths, 900)  # one piece of 900 tokens and one of 100 would do
    assert [len(piece.input_ids) for piece in pieces] == [497, 503]
    pieces = cut(torch.arange(1010), torch.full((101,), 10), 45)
    assert [len(piece.lengths) for piece in pieces] == [4] * 25 + [1]  # what 26 pieces of whole texts leave
    pieces = cut(torch.arange(1010), torch.full((101,), 10), 65)
    assert {len(piece.lengths) for piece in pieces} == {6, 5}
    assert not cut(torch.arange(0), torch.arange(0), 900)


def test_padding_makes_pieces_as_large_as_the_largest_where_it_takes_little():
    lengths = torch.tensor([7, 3] * 100)
    first, second = cut(torch.arange(1, 1001), lengths, 900, pad=True)
    assert len(first.input_ids) == len(second.input_ids) == 503
    assert (first.input_ids[497:] == 0).all()
    assert first.lengths[-1] == 6
    assert len(first.lengths) == first.num_kept + 1
    assert len(second.lengths) == second.num_kept
    assert sum(len(piece.places) for piece in (first, second)) == 200


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "sizes"),
    [
        ([50] * 7, 200, [200, 150]),  # it would be a quarter of the second piece
        ([1] * 254, 64, [64, 64, 64, 62]),  # it would be longer than the piece's longest text
        ([520, 250, 255], 512, [520, 512]),  # no more than was asked for, though one text has more
        ([], 10, []),
    ],
)
def test_padding_that_would_cost_more_is_left_out(lengths, max_tokens, sizes):
    pieces = cut(torch.arange(sum(lengths)), torch.tensor(lengths, dtype=torch.long), max_tokens, pad=True)
    assert [len(piece.input_ids) for piece in pieces] == sizes
    assert all(piece.max_length == piece.lengths.max() for piece in pieces)


def test_padding_changes_neither_embeddings_nor_gradients(make_model):
    model, lengths = make_model(), torch.tensor([7, 3, 5] * 50)
    torch.manual_seed(2)
    batch = torch.randint(5, 100, (int(lengths.sum()),)), lengths
    pieces = cut(*batch, 200, pad=True)
    assert any(len(piece.lengths) > piece.num_kept for piece in pieces)
    weights = torch.randn(len(lengths), 32)
    found = []
    for embed in (lambda: model(*batch), lambda: embed_pieces(model, pieces)):
        model.zero_grad()
        embeddings = embed()
        (embeddings * weights).sum().backward()
        found.append((embeddings.detach(), gradients(model)))
    (expected, expected_gradients), (actual, actual_gradients) = found
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    for name, grad in expected_gradients.items():
        assert_close(actual_gradients[name], grad, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("loss_name", LOSSES)
def test_loss_and_every_gradient_equal_those_of_the_whole_batch(make_model, batch, loss_name, packing):
    model = make_model(packing=packing)
    whole, expected = step(model, batch, loss_name)
    value, actual = step(model, batch, loss_name, max_tokens=12)
    assert_close(value, whole, atol=1e-5, rtol=1e-5)
    assert actual.keys() == expected.keys()
    assert max(grad.abs().max() for grad in expected.values()) > 1e-2
    for name, grad in expected.items():
        assert_close(actual[name], grad, atol=1e-5, rtol=1e-4, msg=name)


def test_activations_of_one_piece_at_a_time_are_kept(make_model, batch):
    model, alive, most = make_model(), [0], [0]

    def embed(*piece):
        with counted(alive, most):
            return model(*piece)

    step(model, batch, "cosent", max_tokens=12, embed=embed)
    pieces = cut(*batch, 12)
    in_pieces, most[0] = most[0], 0
    for piece in pieces[:1]:
        embed(*piece[:3]).sum().backward()
    assert in_pieces <= 1.1 * most[0]  # the longest piece's own
    assert alive[0] == 0


@pytest.mark.parametrize(("trainable", "context"), [(True, torch.no_grad), (False, torch.enable_grad)])
def test_nothing_is_kept_where_no_backward_pass_can_come(make_model, batch, trainable, context):
    model, alive, most = make_model(), [0], [0]
    with context(), counted(alive, most):
        embed_pieces(model, cut(*batch, 12), trainable=trainable)
    assert most[0] == 0


@contextmanager
def counted(alive, most):
    """Count elements that autograd keeps for a backward pass."""

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # its graph would hold what holds it
            alive[0] += tensor.numel()
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= self.tensor.numel()

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield


@pytest.mark.parametrize("packing", ["on", "off"])
def test_both_passes_draw_the_same_dropout(make_model, batch, packing):
    model = make_model(dropout=0.3, packing=packing)
    seen = []

    def embed(*piece):
        seen.append(model(*piece))
        return seen[-1]

    torch.manual_seed(0)
    step(model, batch, "cosent", max_tokens=12, embed=embed)
    num_pieces = len(cut(*batch, 12))
    assert num_pieces > 3
    first, second = seen[: num_pieces - 1], seen[num_pieces:]  # the last one is embedded once
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not torch.equal(first[0], model(*cut(*batch, 12)[0][:3]))  # another time it is other dropout


def test_the_gradient_under_dropout_is_that_of_the_very_masks(make_model, batch):
    # the derivative along a direction, by differences of the loss under the same masks
    model = make_model(dropout=0.3).double()
    loss, columns, labels = LOSSES["cosent"]
    pieces = cut(*batch, 12)

    def value() -> Tensor:
        torch.manual_seed(0)
        return loss(embed_pieces(model, pieces).view(columns, -1, 32), labels)

    value().backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    torch.manual_seed(5)
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True))
    differences = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in zip(parameters, directions, strict=True):
                p += sign * 1e-6 * d
            differences.append(value())
            for p, d in zip(parameters, directions, strict=True):
                p -= sign * 1e-6 * d
    numeric = (differences[0] - differences[1]) / 2e-6
    assert abs(slope) > 1e-3
    assert_close(slope, numeric, rtol=1e-4, atol=1e-6)


def test_random_numbers_go_on_as_after_one_pass(make_model, batch):
    model = make_model(dropout=0.3)
    pieces = cut(*batch, 12)
    torch.manual_seed(0)
    for piece in pieces:
        model(*piece[:3])
    expected = torch.rand(2)
    torch.manual_seed(0)
    embeddings = embed_pieces(model, pieces)
    between = torch.rand(1)  # a loss may draw, too
    embeddings.sum().backward()
    assert torch.equal(torch.cat([between, torch.rand(1)]), expected)


def test_a_single_piece_is_embedded_once(make_model, batch):
    model, calls = make_model(), []
    step(model, batch, "cosent", max_tokens=1000, embed=lambda *piece: calls.append(1) or model(*piece))
    assert len(calls) == 1


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_of_the_forward_pass_holds_in_the_backward_pass(make_model, batch, backward_inside):
    model, dtypes = make_model(), []
    dense = model.backbone.encoder.layer[0].output.dense
    dense.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    pieces = cut(*batch, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CoSENTLoss()(embed_pieces(model, pieces).view(2, 6, 32), LOSSES["cosent"][2])
        dtypes.clear()
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    assert dtypes == [torch.bfloat16] * (len(pieces) - 1)
    model_gradients = gradients(model)
    assert len(model_gradients) == sum(parameter.requires_grad for parameter in model.parameters())
    _, expected = step(model, batch, "cosent")
    norm = max(grad.norm() for grad in expected.values())
    for name, grad in expected.items():
        assert (model_gradients[name] - grad).norm() < 0.1 * norm, name


def test_a_scaled_loss_has_scaled_gradients(make_model, batch):  # as fp16 training has
    model = make_model()
    _, expected = step(model, batch, "cosent")
    model.zero_grad()
    pieces = cut(*batch, 12)
    embeddings = embed_pieces(model, pieces).view(2, 6, 32)
    (CoSENTLoss()(embeddings, LOSSES["cosent"][2]) * 1024).backward()
    for name, grad in gradients(model).items():
        assert_close(grad / 1024, expected[name], atol=1e-5, rtol=1e-4)


def test_frozen_weights_stay_without_a_gradient_and_others_have_theirs(make_model, batch):
    model = make_model()
    model.backbone.embeddings.requires_grad_(False)
    model.backbone.encoder.layer[0].requires_grad_(False)
    _, expected = step(model, batch, "infonce")
    _, actual = step(model, batch, "infonce", max_tokens=12)
    assert actual.keys() == expected.keys()
    assert not any("embeddings" in name or "layer.0" in name for name in actual)
    for name, grad in expected.items():
        assert_close(actual[name], grad, atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_goes_with_it(make_model, batch):
    model = make_model()
    _, expected = step(model, batch, "cosent")
    model.activation_checkpointing_enable()
    _, actual = step(model, batch, "cosent", max_tokens=12)
    for name, grad in expected.items():
        assert_close(actual[name], grad, atol=1e-5, rtol=1e-4)


def test_all_pieces_but_the_one_whose_backward_comes_last_run_without_sync(make_model, batch):
    model, inside, forwards, backwards = make_model(), [False], [], []

    @contextmanager
    def without_sync():
        inside[0] = True
        yield
        inside[0] = False

    pieces = cut(*batch, 12)

    def embed(*piece):
        embeddings = model(*piece)
        if embeddings.requires_grad:  # it runs when the backward pass reaches them
            forwards.append(not inside[0])
            embeddings.register_hook(lambda grad: backwards.append(not inside[0]))
        return embeddings

    embed_pieces(embed, pieces, without_sync=without_sync).sum().backward()
    assert forwards == backwards == [False] * (len(pieces) - 1) + [True]


def test_a_filler_is_a_text_that_changes_nothing(make_model, batch):
    model = make_model()
    _, expected = step(model, batch, "cosent")
    model.zero_grad()
    pieces = cut(*batch, 12)
    more = [*pieces, filler(batch[0]), filler(batch[0])]
    embeddings = embed_pieces(model, more)
    assert len(embeddings) == len(LENGTHS)
    CoSENTLoss()(embeddings.view(2, 6, 32), LOSSES["cosent"][2]).backward()
    for name, grad in gradients(model).items():
        assert_close(grad, expected[name], atol=1e-5, rtol=1e-4)


def test_pieces_are_tokens_lengths_and_the_longest(batch):
    (piece,) = cut(*batch, 1000)
    assert isinstance(piece, Piece)
    assert piece.max_length == 9
    assert np.array_equal(
        piece.places.argsort().numpy(), LENGTHS.argsort(descending=True, stable=True).argsort().numpy()
    )
