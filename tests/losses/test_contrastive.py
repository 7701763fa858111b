import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer_losses
from torch.testing import assert_close

from cosent.batch import NO_TEXT
from cosent.losses import shapes
from cosent.losses.contrastive import InfoNCELoss
from tests.losses.tensor_sizes import TensorSizes
from tests.losses.test_ranking import EXACT, PEER, loss_and_gradient

SCALE = 7.0
FORMS = {"targets": {}, "symmetric": {"symmetric": True}, "all": {"negatives": "all"}}


def cosine(a, b):
    return a @ b / (a.norm() * b.norm())


def naive_direction(anchors, candidates, positive_of, same):
    """Mean of -log softmax, candidate by candidate; `same(i, j)` tells a candidate that is no negative."""
    total = 0.0
    for i in range(len(anchors)):
        terms = [
            SCALE * cosine(anchors[i], candidates[j])
            for j in range(len(candidates))
            if j == positive_of(i) or not same(i, j)
        ]
        total = total + torch.logsumexp(torch.stack(terms), 0) - SCALE * cosine(anchors[i], candidates[positive_of(i)])
    return total / len(anchors)


def naive(form, embeddings, ids):
    k, size, dim = embeddings.shape
    flat, n = ids.flatten(), k * size

    def targets(e, i):
        own = i.flatten()
        return naive_direction(
            e[0],
            e[1:].reshape(-1, dim),
            lambda a: a,
            lambda a, c: own[size + c] in (own[a], own[size + a]),
        )

    if form == "targets":
        return targets(embeddings, ids)
    if form == "symmetric":
        return (targets(embeddings, ids) + targets(embeddings[:2].flip(0), ids[:2].flip(0))) / 2
    return naive_direction(
        embeddings[:2].reshape(-1, dim),
        embeddings.reshape(n, dim),
        lambda a: (a + size) % (2 * size),
        lambda a, c: c == a or flat[c] in (flat[a], flat[(a + size) % (2 * size)]),
    )


@pytest.fixture(params=["at once", "some at a time"])
def blocks(request, monkeypatch):
    """The loss takes all anchors at once, or a few: of 9 or more candidates, one or two."""
    if request.param == "some at a time":
        monkeypatch.setattr(shapes, "_MAX_SCORES", 20)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("texts", ["distinct", "repeated", "twice"])
def test_value_and_gradient_equal_the_naive_loops(form, columns, size, texts, blocks):
    torch.manual_seed(size)
    embeddings = torch.randn(columns, size, 5, dtype=torch.float64)
    ids = {
        "distinct": torch.arange(columns * size),
        "repeated": torch.randint(0, 2 * size, (columns * size,)),
        "twice": torch.arange(size).repeat(columns),  # SimCSE: a text is its own positive
    }[texts]
    loss = InfoNCELoss(scale=SCALE, **FORMS[form])
    expected = loss_and_gradient(lambda e: naive(form, e, ids.view(columns, size)), embeddings)
    assert_close(loss_and_gradient(lambda e: loss(e, text_ids=ids), embeddings), expected, **EXACT)


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize(
    ("form", "directions"), [("targets", ("query_to_doc",)), ("symmetric", ("query_to_doc", "doc_to_query"))]
)
def test_equals_sentence_transformers(columns, form, directions):
    torch.manual_seed(0)
    embeddings = torch.randn(columns, 16, 8)
    peer = peer_losses.MultipleNegativesRankingLoss(
        model=None, scale=SCALE, directions=directions, partition_mode="per_direction"
    )
    expected = loss_and_gradient(lambda e: peer.compute_loss_from_embeddings(list(e), None), embeddings)
    assert_close(loss_and_gradient(InfoNCELoss(scale=SCALE, **FORMS[form]), embeddings), expected, **PEER)


def test_hand_worked_example():
    # two anchors, each parallel to its positive and at a right angle to the other: -log(e^s / (e^s + 1))
    embeddings = torch.eye(2).repeat(2, 1, 1)
    assert InfoNCELoss(scale=2.0)(embeddings).item() == pytest.approx(math.log(1 + math.exp(-2)))
    # all: two candidates at right angles
    assert InfoNCELoss(scale=2.0, negatives="all")(embeddings).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)))


@pytest.mark.parametrize(
    ("negatives", "ids", "kept", "masked"),
    [
        ("targets", [0, 1, 2, 3, 4, 5], 2, 0),
        ("targets", [0, 1, 2, 3, 3, 5], 4 / 3, 2 / 3),  # two rows share their positive
        ("all", [0, 1, 2, 3, 4, 5], 4, 0),
        ("all", [0, 1, 2, 0, 1, 2], 4, 0),  # SimCSE: only the text itself is left out, as itself and as its target
    ],
)
def test_statistics_count_negatives(negatives, ids, kept, masked):
    found = InfoNCELoss(negatives=negatives).statistics(torch.randn(2, 3, 4), text_ids=torch.tensor(ids))
    assert found["negatives"].item() == pytest.approx(kept)
    assert found["masked_negatives"].item() == pytest.approx(masked)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 20.0, 1e4])
def test_half_precision_and_extreme_scales_stay_finite(form, dtype, scale):
    embeddings = torch.randn(3, 8, 16).to(dtype)
    value, gradient = loss_and_gradient(InfoNCELoss(scale=scale, **FORMS[form]), embeddings)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_compare_with_is_a_zero_on_the_graph(form):
    value, gradient = loss_and_gradient(InfoNCELoss(**FORMS[form]), torch.randn(2, 1, 4))
    assert value.item() == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "above 0"),
        ({"negatives": "both"}, "got 'both'"),
        ({"negatives": "all", "symmetric": True}, "both ways already"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        InfoNCELoss(**options)


@pytest.mark.parametrize(
    ("embeddings", "ids", "message"),
    [
        (torch.randn(1, 4, 2), None, "embed each sentence twice"),
        (torch.randn(4, 2), None, r"got \(4, 2\)"),
        (torch.randn(2, 4, 2), torch.arange(4), r"shape \(8,\), got \(4,\)"),
    ],
)
def test_wrong_shapes_are_named(embeddings, ids, message):
    with pytest.raises(ValueError, match=message):
        InfoNCELoss()(embeddings, text_ids=ids)


@pytest.mark.parametrize("form", FORMS)
def test_places_without_a_text_are_nobodys_candidates(form, blocks):
    torch.manual_seed(0)
    embeddings = torch.randn(4, 3, 5, dtype=torch.float64)
    ids = torch.arange(12).view(4, 3)
    ids[2, 1] = ids[3, 0] = ids[3, 1] = NO_TEXT
    loss = InfoNCELoss(scale=SCALE, **FORMS[form])

    def of_present(e):
        """The naive loops, with the absent texts' candidates taken out of every sum."""
        present = [i for i in range(12) if ids.flatten()[i] != NO_TEXT]
        flat = e.reshape(12, 5)

        def direction(anchors, candidates, positive_of):
            total = 0.0
            for i, anchor in enumerate(anchors):
                scores = torch.stack([SCALE * cosine(anchor, flat[c]) for c in candidates(i)])
                total = total + torch.logsumexp(scores, 0) - SCALE * cosine(anchor, flat[positive_of(i)])
            return total / len(anchors)

        targets = direction(e[0], lambda i: [c for c in present if c >= 3], lambda i: i + 3)
        if form == "targets":
            return targets
        if form == "symmetric":
            return (targets + direction(e[1], lambda i: range(3), lambda i: i)) / 2
        return direction(flat[:6], lambda i: [c for c in present if c != i], lambda i: (i + 3) % 6)

    expected = loss_and_gradient(of_present, embeddings)
    assert_close(loss_and_gradient(lambda e: loss(e, text_ids=ids.flatten()), embeddings), expected, **EXACT)


def test_places_without_a_text_are_not_counted():
    ids = torch.tensor([0, 1, 2, 3, 4, NO_TEXT])
    found = InfoNCELoss().statistics(torch.randn(3, 2, 4), text_ids=ids)
    assert found["negatives"].item() == 2  # the other positive, and the one hard negative
    assert found["masked_negatives"].item() == 0


def test_a_collapse_is_not_taken_for_missing_dropout():
    found = InfoNCELoss().statistics(torch.ones(2, 3, 4), text_ids=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert found["identical_views"] == 0


@pytest.mark.parametrize(
    ("noise", "ids", "identical"), [(0, [0, 1, 0, 1], 1), (0.1, [0, 1, 0, 1], 0), (0, [0, 1, 2, 3], 0)]
)
def test_views_that_do_not_differ_are_noticed(noise, ids, identical):
    torch.manual_seed(0)
    view = torch.randn(2, 8)
    embeddings = torch.stack([view, view + noise * torch.randn(2, 8)])
    assert InfoNCELoss().statistics(embeddings, text_ids=torch.tensor(ids))["identical_views"] == identical


@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_holds_all_scores(form, monkeypatch):
    monkeypatch.setattr(shapes, "_MAX_SCORES", 1_000)
    embeddings = torch.randn(2, 100, 4, requires_grad=True)
    loss = InfoNCELoss(**FORMS[form])
    with TensorSizes() as sizes:
        loss(embeddings).backward()
        loss.statistics(embeddings.detach())
    assert sizes.largest <= 1_000
