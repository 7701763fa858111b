"""Embeddings in fewer bits: one byte or one bit a dimension, as sentence-transformers and vector databases store them.

Shapes: N texts, D dimensions.
"""

import logging
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosent.errors import UserError

logger = logging.getLogger(__name__)

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

_LEVELS = 256  # of a byte
_FEW_TEXTS = 100  # with fewer, the smallest and the largest value of a dimension are chance


class _Kind(NamedTuple):
    """How a dimension is stored.

    Attributes:
        dtype: type of the array.
        bits: 32, 8 or 1 a dimension.
        offset: what is subtracted from an unsigned byte.
    """

    dtype: type[np.generic]
    bits: int
    offset: int = 0


PRECISIONS: dict[str, _Kind] = {
    "float32": _Kind(np.float32, 32),
    "int8": _Kind(np.int8, 8, offset=128),
    "uint8": _Kind(np.uint8, 8),
    "binary": _Kind(np.int8, 1, offset=128),
    "ubinary": _Kind(np.uint8, 1),
}


def check_precision(precision: str | None) -> Precision:
    """Return a precision if it is known; None is "float32", as in sentence-transformers.

    Args:
        precision: a key of `PRECISIONS`, or None.

    Raises:
        UserError: if it is unknown.
    """
    precision = precision or "float32"
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision  # type: ignore[return-value]


def needs_ranges(precision: str) -> bool:
    """Tell whether a precision needs the range of each dimension.

    Args:
        precision: a key of `PRECISIONS`.
    """
    return PRECISIONS[precision].bits == 8


def find_ranges(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Find the smallest and the largest value of each dimension, which int8 and uint8 spread over a byte.

    Args:
        embeddings: (N, D) float embeddings of typical texts, 100 or more.

    Returns:
        (2, D): the smallest values, then the largest.

    Raises:
        UserError: if there are fewer than two embeddings.
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise UserError(
            "int8 and uint8 need the range of each dimension, which one text does not show: give ranges, or "
            "calibration_texts like the texts to be embedded"
        )
    if len(embeddings) < _FEW_TEXTS:
        logger.warning(
            "the ranges for int8 or uint8 rest on %d texts: give ranges, or calibration_texts with %d texts or more",
            *(len(embeddings), _FEW_TEXTS),
        )
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])


def check_ranges(ranges: ArrayLike, dim: int) -> NDArray[np.float32]:
    """Check the ranges of D dimensions.

    Args:
        ranges: (2, D) finite numbers: the smallest value of each dimension, then the largest.
        dim: D.

    Returns:
        The ranges as an array.

    Raises:
        UserError: if they are not such an array.
    """
    found = np.asarray(ranges, dtype=np.float32)
    if found.shape != (2, dim):
        raise UserError(f"ranges must have shape (2, {dim}), a row of minima and a row of maxima, got {found.shape}")
    if not np.isfinite(found).all() or (found[0] > found[1]).any():
        raise UserError("ranges must be finite, and no dimension's minimum above its maximum")
    return found


def quantize(
    embeddings: NDArray[np.float32], precision: Precision, ranges: ArrayLike | None = None
) -> NDArray[np.generic]:
    """Store embeddings in fewer bits, with the same result as sentence-transformers' `quantize_embeddings`.

    With the range [low, high] of a dimension, a byte is floor((value - low) / ((high - low) / 255)), clipped to 0..255;
    "int8" subtracts 128. A bit says whether the value is above 0; eight dimensions share a byte, the first one in its
    highest bit, and "binary" subtracts 128 from the byte.

    Args:
        embeddings: (N, D) float32.
        precision: a key of `PRECISIONS`.
        ranges: (2, D) minima and maxima for int8 and uint8. None: those of `embeddings`.

    Returns:
        (N, D) for "float32", "int8" and "uint8", (N, D / 8), rounded up, for "binary" and "ubinary".

    Raises:
        UserError: if the ranges are of another shape, or none are given for fewer than two embeddings.
    """
    kind = PRECISIONS[precision]
    if kind.bits == 32:
        return embeddings
    if kind.bits == 1:
        levels = np.packbits(embeddings > 0, axis=-1)
    elif not len(embeddings) and ranges is None:
        return embeddings.astype(kind.dtype)
    else:
        low, high = find_ranges(embeddings) if ranges is None else check_ranges(ranges, embeddings.shape[1])
        steps = (high - low) / np.float32(_LEVELS - 1)
        steps[steps == 0] = 1
        levels = np.floor((embeddings - low) / steps).clip(0, _LEVELS - 1)
    return (levels.astype(np.int16) - kind.offset).astype(kind.dtype)


def comparable(
    embeddings: NDArray[np.float32], precision: Precision, ranges: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Turn embeddings into numbers whose cosine is that of the embeddings as they are stored.

    Bytes count as they are stored. Bits count as +1 and -1, so the cosine is 1 - 2 * h / D for a Hamming distance h.

    Args:
        embeddings: (N, D) float32.
        precision: a key of `PRECISIONS`.
        ranges: (2, D) minima and maxima for int8 and uint8. None: those of `embeddings`.

    Returns:
        (N, D) float32.
    """
    if PRECISIONS[precision].bits == 1:
        return np.where(embeddings > 0, np.float32(1), np.float32(-1))
    return quantize(embeddings, precision, ranges).astype(np.float32, copy=False)


def is_quantized(embeddings: Any) -> bool:
    """Tell whether embeddings are stored in bytes, which have another scale than floats.

    Args:
        embeddings: an array, a tensor, or anything else.
    """
    return str(getattr(embeddings, "dtype", "")).rpartition(".")[2] in ("int8", "uint8")
