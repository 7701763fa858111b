import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer_losses
from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as PeerDistance
from torch.nn import functional as F
from torch.testing import assert_close

from cosent.losses import shapes
from cosent.losses.triplet import BatchHardTripletLoss
from tests.losses.tensor_sizes import TensorSizes
from tests.losses.test_ranking import EXACT, PEER, loss_and_gradient

MARGIN = 0.7


def naive(embeddings, labels, distance, mining, soft_margin=False):
    """The definitions, triplet by triplet."""
    x, size = embeddings[0], len(labels)

    def d(i, j):
        if distance == "cosine":
            return 1 - x[i] @ x[j] / (x[i].norm() * x[j].norm())
        return (x[i] - x[j]).norm()

    losses = []
    for a in range(size):
        positives = [p for p in range(size) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(size) if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            gap = max(d(a, p) for p in positives) - min(d(a, n) for n in negatives)
            losses.append(F.softplus(gap) if soft_margin else F.relu(MARGIN + gap))
        for p in positives if mining != "hard" else ():
            if mining == "semi_hard":
                farther = [d(a, n) for n in negatives if d(a, n) > d(a, p)]
                chosen = min(farther) if farther else max(d(a, n) for n in negatives)
                losses.append(F.relu(MARGIN + d(a, p) - chosen))
            else:
                hinges = [MARGIN + d(a, p) - d(a, n) for n in negatives]
                losses += [hinge for hinge in hinges if hinge > 0]
    return sum(losses) / len(losses) if losses else embeddings.sum() * 0


@pytest.mark.parametrize(
    ("mining", "soft_margin"), [("hard", False), ("hard", True), ("semi_hard", False), ("all", False)]
)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 1, 1], [0, 0, 1], [5, 5, 5, 2, 2, 9, 9, 9, 9, 2], [0, 1, 2], [3, 3, 3], [1], [0, 0, 0, 1, 2, 3, 3]],
    ids=str,
)
def test_value_and_gradient_equal_the_naive_loops(mining, soft_margin, distance, labels):
    torch.manual_seed(len(labels))
    embeddings, labels = torch.randn(1, len(labels), 4, dtype=torch.float64), torch.tensor(labels)
    loss = BatchHardTripletLoss(MARGIN, distance, soft_margin, mining=mining)
    expected = loss_and_gradient(lambda e: naive(e, labels, distance, mining, soft_margin), embeddings)
    assert_close(loss_and_gradient(loss, embeddings, labels), expected, **EXACT)


PEERS = {
    ("hard", False): peer_losses.BatchHardTripletLoss,
    ("hard", True): peer_losses.BatchHardSoftMarginTripletLoss,
    ("semi_hard", False): peer_losses.BatchSemiHardTripletLoss,
    ("all", False): peer_losses.BatchAllTripletLoss,
}


@pytest.mark.parametrize(("mining", "soft_margin"), PEERS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_equals_sentence_transformers_where_every_anchor_is_valid(mining, soft_margin, distance):
    torch.manual_seed(0)
    embeddings, labels = torch.randn(1, 32, 8), torch.arange(32) % 4
    metric = PeerDistance.cosine_distance if distance == "cosine" else PeerDistance.eucledian_distance
    margin = {} if soft_margin else {"margin": MARGIN}
    peer = PEERS[mining, soft_margin](model=None, distance_metric=metric, **margin)
    expected = loss_and_gradient(lambda e: peer.compute_loss_from_embeddings([e[0]], labels), embeddings)
    loss = BatchHardTripletLoss(MARGIN, distance, soft_margin, mining=mining)
    assert_close(loss_and_gradient(loss, embeddings, labels), expected, **PEER)


def test_hand_worked_example():
    # on a line: class 0 at 0 and 1, class 1 at 3 and 5; margin 2: anchors' hinges 2+1-3, 2+1-2, 2+2-2, 2+2-4
    embeddings = torch.tensor([[[0.0], [1.0], [3.0], [5.0]]])
    labels = torch.tensor([0, 0, 1, 1])
    assert BatchHardTripletLoss(margin=2.0)(embeddings, labels).item() == pytest.approx((0 + 1 + 2 + 0) / 4)
    # margin 1: 1+1-3, 1+1-2, 1+2-2, 1+2-4, of which one is open
    assert BatchHardTripletLoss(margin=1.0)(embeddings, labels).item() == pytest.approx((0 + 0 + 1 + 0) / 4)
    found = BatchHardTripletLoss(margin=2.0).statistics(embeddings, labels)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {
            "valid_triplets": 4 * 1 * 2,
            "hardest_positive": (1 + 1 + 2 + 2) / 4,
            "hardest_negative": (3 + 2 + 2 + 4) / 4,
            "active_triplets": 0.5,
            "collapsed": 0,
        }
    )


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_collapsed_embeddings_have_the_margin_as_loss_and_finite_gradients(mining, distance):
    embeddings = torch.ones(1, 6, 4)
    value, gradient = loss_and_gradient(
        BatchHardTripletLoss(MARGIN, distance, mining=mining), embeddings, torch.arange(6) % 2
    )
    assert value.item() == pytest.approx(MARGIN, abs=1e-3)  # float32 rounds 1 - cosine
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2]], ids=str)
def test_no_valid_anchor_is_a_zero_on_the_graph(mining, labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    loss = BatchHardTripletLoss(mining=mining)
    value, gradient = loss_and_gradient(loss, torch.randn(1, len(labels), 4), labels)
    assert value.item() == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("mining", ["hard", "semi_hard", "all"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_before_distances_are_taken(mining, dtype):
    embeddings, labels = torch.randn(1, 12, 16).to(dtype), torch.arange(12) % 3
    loss = BatchHardTripletLoss(mining=mining)
    value, gradient = loss_and_gradient(loss, embeddings, labels)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert_close(value, loss(embeddings.float(), labels))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("num_scores", [1, 25])  # one anchor at a time, and two
def test_the_hardest_of_some_anchors_at_a_time_are_those_of_all_at_once(distance, num_scores, monkeypatch):
    torch.manual_seed(0)
    loss, labels = BatchHardTripletLoss(MARGIN, distance), torch.tensor([5, 5, 5, 2, 2, 9, 9, 9, 7, 9, 2])
    embeddings = torch.randn(1, len(labels), 4, dtype=torch.float64)
    embeddings[0, 0] = -10 * embeddings[0, 1:3].sum(0)  # the farthest of its class, as other blocks than its own see it
    expected = loss_and_gradient(loss, embeddings, labels), loss.statistics(embeddings, labels)
    monkeypatch.setattr(shapes, "_MAX_SCORES", num_scores)
    assert_close((loss_and_gradient(loss, embeddings, labels), loss.statistics(embeddings, labels)), expected)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_mining_the_hardest_holds_no_matrix_of_all_distances(distance, monkeypatch):
    monkeypatch.setattr(shapes, "_MAX_SCORES", 1_000)
    embeddings, labels = torch.randn(1, 100, 4, requires_grad=True), torch.arange(100) % 7
    loss = BatchHardTripletLoss(distance=distance)
    with TensorSizes() as sizes:
        loss(embeddings, labels).backward()
        loss.statistics(embeddings, labels)
    assert sizes.largest <= 1_000


@pytest.mark.parametrize("mining", ["semi_hard", "all"])
def test_no_tensor_has_a_third_axis_of_the_batch(mining):
    size = 512
    embeddings = torch.randn(1, size, 8, requires_grad=True)
    with TensorSizes() as sizes:
        BatchHardTripletLoss(mining=mining)(embeddings, torch.arange(size) % 7).backward()
    assert sizes.largest <= size * (size + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "manhattan"}, "got 'manhattan'"),
        ({"mining": "easy"}, "got 'easy'"),
        ({"margin": -0.1}, "must not be negative, got -0.1"),
        ({"soft_margin": True, "mining": "all"}, "goes with mining='hard'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        BatchHardTripletLoss(**options)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.randn(2, 4, 2), torch.ones(4), r"shape \(1, B, D\), got \(2, 4, 2\)"),
        (torch.randn(1, 4, 2), None, "needs class ids"),
        (torch.randn(1, 4, 2), torch.ones(4, 1), "use labels.squeeze"),
    ],
)
def test_wrong_shapes_are_named(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        BatchHardTripletLoss()(embeddings, labels)


def test_a_single_open_hinge_is_its_own_mean():
    # on a line: class 0 at 0 and 1, class 1 at 1.5; margin 0: only from 1 is the negative nearer than the positive
    embeddings = torch.tensor([[[0.0], [1.0], [1.5]]])
    loss = BatchHardTripletLoss(margin=0.0, mining="all")(embeddings, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(1 - 0.5)


def test_the_soft_margin_of_an_even_triplet_is_log_two():
    # on a line: class 0 at 0 and 1, class 1 at 2; from 1, positive and negative are equally far
    embeddings = torch.tensor([[[0.0], [1.0], [2.0]]])
    loss = BatchHardTripletLoss(soft_margin=True)(embeddings, torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(1 - 2)) + math.log(2)) / 2)


def test_a_negative_that_is_as_far_as_the_positive_is_not_semi_hard():
    # on a line: class 0 at 0 and 1, class 1 at -1 and 3; margin 1: 1+1-3 (not 1+1-1), 1+1-2, 1+4-2, 1+4-3
    embeddings = torch.tensor([[[0.0], [1.0], [-1.0], [3.0]]])
    loss = BatchHardTripletLoss(margin=1.0, mining="semi_hard")(embeddings, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx((0 + 0 + 3 + 2) / 4)


@pytest.mark.parametrize(
    ("line", "collapsed"),
    [
        ([1.000, 1.004, 1.008, 1.012], 1),  # hardest positives 0.004, hardest negatives 0.006, of a length of 1
        ([1.000, 1.012, 1.024, 1.036], 0),  # 0.012 and 0.018
        ([1.0, 1.0, -1.0, -1.0], 0),  # this is what training is for
    ],
)
def test_a_collapse_is_of_both_distances_to_a_hundredth_of_the_length(line, collapsed):
    found = BatchHardTripletLoss().statistics(torch.tensor(line).view(1, 4, 1), torch.tensor([0, 0, 1, 1]))
    assert found["collapsed"] == collapsed


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(("spread", "collapsed"), [(1e-3, 1), (1.0, 0)])
def test_a_collapse_is_noticed_at_any_length_of_embeddings(distance, spread, collapsed):
    torch.manual_seed(0)
    loss = BatchHardTripletLoss(distance=distance)
    for length in (0.01, 1.0, 100.0):
        embeddings = length * (torch.ones(1, 6, 4) + spread * torch.randn(1, 6, 4))
        assert loss.statistics(embeddings, torch.arange(6) % 2)["collapsed"] == collapsed
        assert loss.statistics(embeddings, torch.tensor([0, 0, 0, 1, 1, 2]))["collapsed"] == collapsed
        assert loss.statistics(embeddings, torch.arange(6))["collapsed"] == 0  # nothing to compare


@pytest.fixture
def minings(monkeypatch):
    """How often a matrix of distances was computed."""
    computed = []
    whole = BatchHardTripletLoss._distance_matrix
    monkeypatch.setattr(
        BatchHardTripletLoss, "_distance_matrix", lambda *args: computed.append(len(args[1])) or whole(*args)
    )
    return computed


def test_statistics_do_not_mine_again_what_the_loss_has_mined(minings):
    loss, labels = BatchHardTripletLoss(), torch.arange(12) % 3
    embeddings = torch.randn(1, 12, 4, requires_grad=True)
    loss(embeddings, labels).backward()
    found = loss.statistics(embeddings.detach(), labels)
    assert minings == [12]
    assert found == BatchHardTripletLoss().statistics(embeddings, labels)


def test_statistics_of_another_batch_are_its_own(minings):
    loss, labels = BatchHardTripletLoss(), torch.arange(12) % 3
    embeddings = torch.randn(1, 12, 4)
    loss(embeddings, labels)
    embeddings += torch.randn(1, 12, 4)  # in the same memory
    assert loss.statistics(embeddings, labels) == BatchHardTripletLoss().statistics(embeddings.clone(), labels)
    loss(embeddings, labels)
    others = torch.arange(12) % 2
    assert loss.statistics(embeddings, others) == BatchHardTripletLoss().statistics(embeddings, others)
    with torch.inference_mode():  # whose tensors have no version
        inferred = torch.randn(1, 12, 4)
        loss(inferred, labels)
        inferred *= -1
        assert loss.statistics(inferred, labels) == BatchHardTripletLoss().statistics(inferred.clone(), labels)
