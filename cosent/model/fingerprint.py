"""Checks that a loaded model is the one that was saved, by the embeddings of a few texts stored with it.

Shapes: F texts, D dimensions, d stored dimensions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from cosent.errors import CheckpointError
from cosent.model.stored import Stored, brief
from cosent.model.tokens import Tokens

# Upper case, accents, scripts, numbers and white space reveal a tokenizer.
TEXTS = (
    "How do I reset my Password?",
    "L'été à Zürich: 24 °C,\t  25 km/h & more",
    "我忘记了密码，怎么重置？",
)
# Longer than the 512 tokens that most models take, with an end that differs from its beginning: only its tokens are
# stored, as embedding it would take most of the time of loading a small model.
LONG_TEXT = "My parcel is late. " * 60 + "退款到账 " * 60 + "and again " * 60

_DIMENSIONS = 32  # stored dimensions of an embedding, evenly spaced

# The lowest cosine of a stored and a computed embedding that other hardware or kernels can explain.
_LEAST = {"float32": 0.99999, "float64": 0.99999}
_LEAST_IN_HALF_PRECISION = 0.99
_LENGTHS = 0.05  # relative difference of their lengths


@dataclass(frozen=True)
class Fingerprint:
    """The tokens of `TEXTS` and `LONG_TEXT`, and a part of the embeddings of `TEXTS`.

    Attributes:
        tokens: a digest of the tokens.
        dtype: type of the weights that computed the embeddings.
        embeddings: F lists of d numbers.
    """

    tokens: str
    dtype: str
    embeddings: list[list[float]]


def read_fingerprint(stored: Stored) -> Fingerprint:
    """Read a fingerprint written with `dataclasses.asdict`.

    Args:
        stored: the stored values.

    Raises:
        CheckpointError: if a value is missing or of another type.
    """
    rows = stored.values.get("embeddings")
    if not isinstance(rows, list):
        raise stored.error("embeddings", "a list of embeddings")
    named = Stored(stored.path, {f"embeddings[{i}]": row for i, row in enumerate(rows)})
    return Fingerprint(stored.text("tokens"), stored.text("dtype"), [named.numbers(name) for name in named.values])


def fingerprint_of(tokens: Tokens, embeddings: Tensor, dtype: torch.dtype) -> Fingerprint:
    """Compute the fingerprint of a model.

    Args:
        tokens: the tokens of `TEXTS` and `LONG_TEXT`.
        embeddings: (F, D) embeddings of `TEXTS`.
        dtype: type of the model's weights.
    """
    columns = torch.linspace(0, embeddings.shape[1] - 1, min(_DIMENSIONS, embeddings.shape[1])).round().long()
    rows = [[float(f"{value:.5g}") for value in row] for row in embeddings.double()[:, columns].tolist()]
    content = tokens.input_ids.tobytes() + tokens.lengths.tobytes()
    return Fingerprint(blake2b(content, digest_size=8).hexdigest(), str(dtype).removeprefix("torch."), rows)


def check_fingerprint(stored: Fingerprint, take: Callable[[], Fingerprint], name: str) -> None:
    """Refuse a model whose embeddings of the texts have changed since it was saved.

    Args:
        stored: the stored fingerprint.
        take: computes the current fingerprint.
        name: hub id or folder of the model.

    Raises:
        CheckpointError: if the embeddings differ by more than hardware and types explain, or are not finite.
    """
    try:
        found = take()
    except Exception as error:  # a configuration that somebody has changed can make torch raise anything
        raise CheckpointError(f"{name} cannot embed a text: {brief(error)}") from error
    least = min(_LEAST.get(dtype, _LEAST_IN_HALF_PRECISION) for dtype in (stored.dtype, found.dtype))
    same_sizes = [len(row) for row in stored.embeddings] == [len(row) for row in found.embeddings]
    pairs = list(zip(stored.embeddings, found.embeddings, strict=False))
    cosines = [_cosine(*rows) for rows in pairs]
    shown = ", ".join(f"{cosine:.3f}" for cosine in cosines)
    if stored.tokens != found.tokens:
        reason = "its tokenizer or its settings have changed"
    elif not same_sizes or not all(cosine >= least for cosine in cosines):  # false for nan
        reason = f"cosines of {len(cosines)} texts: {shown}; its weights or its settings have changed"
    elif not all(math.isclose(*map(_length, rows), rel_tol=_LENGTHS) for rows in pairs):
        reason = "of another length; its weights or its settings have changed"
    else:
        return
    raise CheckpointError(
        f"{name} gives other embeddings than when it was saved ({reason}). If that is intended, remove "
        '"fingerprint" and "decision" from its cosent_config.json'
    )


def _cosine(first: list[float], second: list[float]) -> float:
    product = sum(a * b for a, b in zip(first, second, strict=False))
    length = _length(first) * _length(second)
    return product / length if length else math.nan


def _length(row: list[float]) -> float:
    return math.hypot(*row)
