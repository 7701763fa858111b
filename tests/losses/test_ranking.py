import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer_losses
from torch.testing import assert_close

from cosent import AnglELoss, CoSENTLoss
from cosent.losses.ranking import ordered_pairs, ranking_loss
from cosent.similarity import pairwise_angle, pairwise_cosine
from tests.losses.tensor_sizes import TensorSizes

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64 against float64
PEER = {"rtol": 1e-5, "atol": 1e-5}  # float32 against float32, summed in another order


def naive_ranking_loss(scores, labels):
    """The definition, term by term."""
    terms = [scores.sum() * 0]  # exp(0) = 1, on the graph
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] > labels[j]:
                terms.append(scores[j] - scores[i])
    return torch.logsumexp(torch.stack(terms), 0)


def loss_and_gradient(function, *inputs):
    """Value and gradient with respect to the first input."""
    leaf = inputs[0].detach().clone().requires_grad_()
    value = function(leaf, *inputs[1:])
    value.backward()
    return value.detach(), leaf.grad


LABELS = {
    "binary": lambda n: torch.randint(0, 2, (n,)).double(),
    "graded": lambda n: torch.randint(0, 6, (n,)).double(),
    "distinct": lambda n: torch.randperm(n).double(),
    "real": lambda n: torch.randn(n, dtype=torch.float64),
    "integer": lambda n: torch.randint(-3, 3, (n,)),
    "boolean": lambda n: torch.rand(n) < 0.5,
    "one value": lambda n: torch.ones(n, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 40])
@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0, 5000.0])
def test_value_and_gradient_equal_the_double_loop(kind, size, spread):
    torch.manual_seed(size)
    labels = LABELS[kind](size)
    scores = (torch.randn(size, dtype=torch.float64) * spread).round(decimals=1)  # rounded: scores tie as well
    expected = loss_and_gradient(naive_ranking_loss, scores, labels)
    assert_close(loss_and_gradient(ranking_loss, scores, labels), expected, **EXACT)


def test_hand_worked_example():
    # one ordered pair: cosines 1 (label 1) and 0 (label 0), scale 2: log(1 + exp(2 * (0 - 1)))
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    loss = CoSENTLoss(scale=2.0)(torch.stack([first, second]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize(("ours", "score"), [(CoSENTLoss, pairwise_cosine), (AnglELoss, pairwise_angle)])
def test_gradient_reaches_embeddings_as_the_double_loop_says(ours, score):
    torch.manual_seed(0)
    embeddings, labels = torch.randn(2, 12, 6, dtype=torch.float64), torch.randint(0, 3, (12,)).double()

    def naive(embeddings, labels):
        return naive_ranking_loss(7.0 * score(embeddings[0], embeddings[1]), labels)

    expected = loss_and_gradient(naive, embeddings, labels)
    assert_close(loss_and_gradient(ours(scale=7.0), embeddings, labels), expected, **EXACT)


@pytest.mark.parametrize(("ours", "peer"), [(CoSENTLoss, peer_losses.CoSENTLoss), (AnglELoss, peer_losses.AnglELoss)])
@pytest.mark.parametrize("dim", [8, 7])
def test_equals_sentence_transformers(ours, peer, dim):
    torch.manual_seed(1)
    embeddings, labels = torch.randn(2, 64, dim), torch.randint(0, 6, (64,)) / 5

    def theirs(embeddings, labels):
        return peer(model=None, scale=20.0).compute_loss_from_embeddings(list(embeddings), labels)

    expected = loss_and_gradient(theirs, embeddings, labels)
    assert_close(loss_and_gradient(ours(scale=20.0), embeddings, labels), expected, **PEER)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 20.0, 1e4])
def test_half_precision_and_extreme_scales_stay_finite(dtype, scale):
    torch.manual_seed(2)
    embeddings, labels = torch.randn(2, 32, 16).to(dtype), torch.randint(0, 2, (32,)).float()
    value, gradient = loss_and_gradient(CoSENTLoss(scale=scale), embeddings, labels)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("size", [0, 1, 5])
def test_no_ordered_pair_is_a_zero_on_the_graph(size):
    value, gradient = loss_and_gradient(CoSENTLoss(), torch.randn(2, size, 4), torch.ones(size))
    assert value.item() == 0
    assert gradient.abs().sum() == 0


def test_accumulates_exactly_over_a_million_pairs():
    # every score is 0: half a million pairs above, half a million below, all terms exp(0)
    size = 1 << 20
    labels = torch.arange(size) % 2
    value, gradient = loss_and_gradient(ranking_loss, torch.zeros(size), labels)
    assert value.item() == pytest.approx(math.log(1 + (size / 2) ** 2), rel=1e-6)
    assert_close(gradient.abs(), torch.full((size,), 2 / size), rtol=1e-5, atol=0)


def test_memory_grows_with_pairs_not_with_their_square():
    size = 1 << 16  # a (B, B) float32 tensor would take 16 GiB
    embeddings = torch.randn(2, size, 4, requires_grad=True)
    with TensorSizes() as sizes:
        CoSENTLoss()(embeddings, torch.randint(0, 2, (size,)).float()).backward()
    assert sizes.largest <= embeddings.numel()


def test_statistics_count_ordered_pairs():
    assert ordered_pairs(torch.tensor([0.0, 1.0, 1.0, 2.0])) == {"ordered_pairs": 5.0, "unordered_batches": 0.0}
    assert ordered_pairs(torch.ones(3)) == {"ordered_pairs": 0.0, "unordered_batches": 1.0}


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.randn(3, 4, 2), torch.ones(4), r"must have shape \(2, B, D\), got \(3, 4, 2\)"),
        (torch.randn(4, 2), torch.ones(4), r"must have shape \(2, B, D\), got \(4, 2\)"),
        (torch.randn(2, 4, 2), torch.ones(4, 1), r"shape \(4,\), got \(4, 1\); use labels.squeeze\(-1\)"),
        (torch.randn(2, 4, 2), torch.ones(1), r"shape \(4,\), got \(1,\)"),
        (torch.randn(2, 4, 2), None, "needs scores as labels"),
    ],
)
def test_wrong_shapes_are_named(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        CoSENTLoss()(embeddings, labels)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_would_not_rank_is_refused(scale):
    with pytest.raises(ValueError, match="above 0"):
        CoSENTLoss(scale=scale)
