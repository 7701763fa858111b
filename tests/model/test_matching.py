"""Decisions for float, truncated and quantised embeddings."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cosent import SentenceBert, UserError
from cosent.calibration import Platt
from cosent.evaluation.threshold import ThresholdMetric, attainable_decisions
from cosent.model.decision import Decision
from cosent.model.quantization import PRECISIONS, find_ranges
from tests.conftest import DATA

SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently


def labelled_pairs() -> tuple[list[tuple[str, str]], np.ndarray]:
    """Pairs of the sample data, and which of them match."""
    rows = [line.split("\t") for line in (DATA / "dev.txt").read_text(encoding="utf-8").splitlines()]
    return [(first, second) for first, second, _ in rows], np.array([float(label) >= 4 for *_, label in rows])


def cosines(stored: np.ndarray) -> np.ndarray:
    """The cosines of rows 0 and 1, 2 and 3, and so on."""
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    return (unit[0::2] * unit[1::2]).sum(1)


def sides(pairs: list[tuple[str, str]]) -> list[str]:
    return [text for pair in pairs for text in pair]


@pytest.mark.parametrize("truncate_dim", [None, 12])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_the_cosines_of_what_encode_gives(model, precision, truncate_dim):
    pairs, _ = labelled_pairs()
    ranges = find_ranges(model.encode(sides(pairs), truncate_dim=truncate_dim)) if "int8" in precision else None
    stored = model.encode(sides(pairs), precision=precision, truncate_dim=truncate_dim, ranges=ranges)
    if PRECISIONS[precision].bits == 1:
        packed = (stored.astype(np.int16) + PRECISIONS[precision].offset).astype(np.uint8)
        stored = np.unpackbits(packed, axis=1)[:, : truncate_dim or 32].astype(np.float64) * 2 - 1
    scores = model.pair_scores(pairs, precision=precision, truncate_dim=truncate_dim, ranges=ranges)
    assert scores.dtype == np.float32
    assert_allclose(scores, cosines(stored.astype(np.float64)), **SAME)


@pytest.mark.parametrize(
    ("precision", "truncate_dim"), [("float32", 12), ("int8", None), ("uint8", 12), ("binary", 20), ("ubinary", None)]
)
def test_a_decision_is_made_as_it_was_chosen(model, tmp_path, precision, truncate_dim):
    pairs, matches = labelled_pairs()
    ranges = None
    if "int8" in precision:
        ranges = find_ranges(model.encode(sides(pairs), truncate_dim=truncate_dim)).tolist()
    scores = model.pair_scores(pairs, precision=precision, truncate_dim=truncate_dim, ranges=ranges)
    value, threshold = ThresholdMetric.parse("f1").choose(attainable_decisions(scores, matches))
    model.settings.decision = Decision(
        threshold, "f1", value, "dev.txt", len(pairs), 4.0, Platt(5.0, -2.0), precision, truncate_dim, ranges
    )
    model.save_pretrained(tmp_path)
    reloaded = SentenceBert(tmp_path, device="cpu")
    assert reloaded.settings.decision == model.settings.decision
    for found in (model.predict(pairs), reloaded.predict(pairs[:7])):  # few pairs have the ranges of many
        assert_allclose(found.scores, scores[: len(found.scores)], **SAME)
        assert_allclose(found.probabilities, Platt(5.0, -2.0)(found.scores))
    assert (model.predict(pairs).matches == (scores >= threshold)).all()
    assert not np.allclose(scores, model.pair_scores(pairs), atol=1e-3)  # the vacuity guard: it is not float32's


def test_a_threshold_is_refused_for_another_number_of_dimensions(model, tmp_path):
    pairs, _ = labelled_pairs()
    model.settings.decision = Decision(0.5, "f1", 0.9, "dev.txt", 9, calibration=Platt(5.0, -2.0))
    full = model.predict(pairs)
    model.truncate_dim = 12
    message = r"for embeddings of 32 dimensions, but the model keeps truncate_dim=12: give .* model.truncate_dim = 32"
    with pytest.raises(UserError, match=message):
        model.predict(pairs)
    given = model.predict(pairs, threshold=0.5)  # the caller's own is for the model as it is
    assert_allclose(given.scores, model.pair_scores(pairs, truncate_dim=12), **SAME)
    assert given.probabilities is None
    model.save_pretrained(tmp_path)
    reloaded = SentenceBert(tmp_path, device="cpu")
    with pytest.raises(UserError, match="for embeddings of 32 dimensions"):
        reloaded.predict(pairs)
    for dim in (32, None):
        reloaded.truncate_dim = dim
        assert_allclose(reloaded.predict(pairs).probabilities, full.probabilities, **SAME)


def test_a_decision_for_more_dimensions_than_there_are(model):
    model.settings.decision = Decision(0.5, "f1", 0.9, "dev.txt", 9, truncate_dim=33)
    with pytest.raises(UserError, match="truncate_dim must be between 1 and 32, got 33"):
        model.predict([("a", "b")])


def test_a_decision_of_an_old_checkpoint_is_for_float32_and_the_models_dimensions(model, tmp_path):
    model.truncate_dim = 12
    model.settings.decision = Decision(0.5, "f1", 0.9, "dev.txt", 9)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "cosent_config.json").read_text())
    for name in ("precision", "truncate_dim", "ranges"):
        del config["decision"][name]
    (tmp_path / "cosent_config.json").write_text(json.dumps(config))
    reloaded = SentenceBert(tmp_path, device="cpu")
    assert reloaded.settings.decision == model.settings.decision
    pairs, _ = labelled_pairs()
    assert_allclose(reloaded.predict(pairs).scores, model.pair_scores(pairs, truncate_dim=12), **SAME)


def test_ranges_are_only_for_embeddings_of_the_same_length(model, tmp_path):
    ranges = find_ranges(model.encode(sides(labelled_pairs()[0]))).tolist()
    model.settings.decision = Decision(0.5, "f1", 0.9, "dev.txt", 9, precision="int8", ranges=ranges)
    model.save_pretrained(tmp_path)
    assert SentenceBert(tmp_path, normalize_embeddings=False, device="cpu").settings.decision is not None
    assert SentenceBert(tmp_path, normalize_embeddings=True, device="cpu").settings.decision is None
    model.settings.decision = replace(model.settings.decision, precision="binary", ranges=None)
    model.save_pretrained(tmp_path)
    assert SentenceBert(tmp_path, normalize_embeddings=True, device="cpu").settings.decision is not None


@pytest.mark.parametrize("threshold", [0.7, 1, np.float32(-0.25)])
def test_a_threshold_set_by_hand_decides_and_is_kept(model, tmp_path, threshold):
    pairs, _ = labelled_pairs()
    model.settings.decision = threshold
    assert str(model.settings.decision) == f"{threshold:.4f} (set by hand)"
    found = model.predict(pairs)
    assert (found.matches == (found.scores >= threshold)).all()
    assert found.probabilities is None
    model.save_pretrained(tmp_path)
    assert SentenceBert(tmp_path, device="cpu").settings.decision == model.settings.decision
    model.settings.decision = None
    with pytest.raises(UserError, match="stores no threshold"):
        model.predict(pairs)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.7", "a cosine from -1 to 1, such as 0.7, a Decision, or None for no threshold; got '0.7'"),
        (True, "got True"),
        (70, "a threshold must be a cosine from -1 to 1, such as 0.7; got 70"),
        (float("nan"), "got nan"),
    ],
)
def test_what_is_no_threshold_is_refused_when_it_is_set(model, value, message):
    with pytest.raises(UserError, match=message):
        model.settings.decision = value
    assert model.settings.decision is None
