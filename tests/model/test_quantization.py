import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sentence_transformers.util import quantize_embeddings

from cosent import UserError
from cosent.model.quantization import PRECISIONS, check_precision, comparable, find_ranges, quantize

LOW_BITS = [name for name in PRECISIONS if name != "float32"]
BYTES = ["int8", "uint8"]


def embeddings(num: int = 150, dim: int = 21, seed: int = 0) -> np.ndarray:
    """Random embeddings, some of whose values and dimensions are all alike."""
    found = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    found[:, 3] = 0.25
    found[::7, 5] = 0
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_is_what_the_peer_stores(precision):
    ours = quantize(embeddings(), precision)
    theirs = quantize_embeddings(embeddings(), precision)
    assert ours.dtype == theirs.dtype == PRECISIONS[precision].dtype
    assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 100  # the vacuity guard


@pytest.mark.parametrize("precision", BYTES)
def test_ranges_of_other_texts_are_the_peers_calibration_embeddings(precision):
    sample = embeddings(120, seed=1) / 2  # so that some values lie outside
    ours = quantize(embeddings(), precision, find_ranges(sample))
    assert_array_equal(ours, quantize_embeddings(embeddings(), precision, calibration_embeddings=sample))
    assert_array_equal(ours, quantize_embeddings(embeddings(), precision, ranges=find_ranges(sample)))
    assert (ours == ours.max()).any(axis=1).mean() > 0.5
    assert_array_equal(ours[:1], quantize(embeddings()[:1], precision, find_ranges(sample).tolist()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_text_gives_no_row(precision):
    none = np.empty((0, 21), np.float32)
    ours, theirs = quantize(none, precision), quantize_embeddings(none, precision)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


@pytest.mark.parametrize("precision", LOW_BITS)
def test_cosines_are_those_of_what_is_stored(precision):
    stored = quantize(embeddings(), precision)
    if precision == "int8":
        assert_array_equal(comparable(embeddings(), precision), stored.astype(np.float32))
    if PRECISIONS[precision].bits == 1:
        compared = comparable(embeddings(), precision)
        packed = stored if precision == "ubinary" else (stored.astype(np.int16) + 128).astype(np.uint8)
        bits = np.unpackbits(packed, axis=1)
        hamming = (bits[:, None] != bits).sum(-1)
        assert_allclose(compared @ compared.T / 21, 1 - 2 * hamming / 21, atol=1e-6)


def test_few_texts_are_said_and_one_is_refused(caplog):
    with pytest.raises(UserError, match="which one text does not show: give ranges, or calibration_texts"):
        find_ranges(embeddings(1))
    find_ranges(embeddings(100))
    assert caplog.text == ""
    find_ranges(embeddings(99))
    assert "rest on 99 texts" in caplog.text


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 21\), a row of minima and a row of maxima, got \(2, 3\)"),
        (np.zeros(21), r"got \(21,\)"),
        (np.full((2, 21), np.nan), "finite"),
        (np.stack([np.ones(21), np.zeros(21)]), "minimum above its maximum"),
    ],
)
def test_ranges_that_cannot_be(ranges, message):
    with pytest.raises(UserError, match=message):
        quantize(embeddings(), "int8", ranges)


def test_an_unknown_precision_names_the_known():
    assert check_precision(None) == "float32"
    with pytest.raises(UserError, match="one of float32, int8, uint8, binary, ubinary, got 'int4'"):
        check_precision("int4")
