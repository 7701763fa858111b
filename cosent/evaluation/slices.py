"""Slices of scored pairs by length, by lexical overlap and by label, which show where a model is good.

Shapes: n pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosent.evaluation.scored import ScoredPairs

_PARTS = 4
_MOST_LABELS = 12


@dataclass(frozen=True)
class Slice:
    """A subset of the pairs, and the model's metrics on it.

    Attributes:
        name: what the pairs have in common.
        n: number of pairs.
        mean_score: mean of their scores.
        metrics: the metrics of `ScoredPairs` on this subset.
    """

    name: str
    n: int
    mean_score: float
    metrics: dict[str, float]


def overlap(first: str, second: str) -> float:
    """Compute the lexical overlap of two texts: the Jaccard index of their character bigrams, 0 to 1."""
    one, other = ({text[i : i + 2] for i in range(max(len(text) - 1, 1))} for text in (first, second))
    return len(one & other) / len(one | other) if one | other else 1.0


def by_length(pairs: ScoredPairs, texts: Sequence[Sequence[str]]) -> list[Slice]:
    """Cut the pairs into quarters by the total number of characters of both texts."""
    lengths = np.array([sum(map(len, pair)) for pair in texts], dtype=np.float64)
    return _by_quantile(pairs, lengths, "{:.0f} to {:.0f} characters")


def by_overlap(pairs: ScoredPairs, texts: Sequence[Sequence[str]]) -> list[Slice]:
    """Cut the pairs into quarters by `overlap`."""
    overlaps = np.array([overlap(*(text.casefold() for text in pair)) for pair in texts])
    return _by_quantile(pairs, overlaps, "overlap {:.2f} to {:.2f}")


def by_label(pairs: ScoredPairs) -> list[Slice]:
    """Make a slice for each label; none if there are more than a dozen labels."""
    values = np.unique(pairs.labels)
    if len(values) > _MOST_LABELS:
        return []
    return [_slice(pairs, f"label {value:g}", pairs.labels == value) for value in values]


def _by_quantile(pairs: ScoredPairs, values: NDArray[np.float64], name: str) -> list[Slice]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _PARTS + 1)[1:-1], method="higher"))
    part = np.searchsorted(edges, values, side="right")
    return [
        _slice(pairs, name.format(values[part == number].min(), values[part == number].max()), part == number)
        for number in np.unique(part)
    ]


def _slice(pairs: ScoredPairs, name: str, chosen: NDArray[np.bool_]) -> Slice:
    return Slice(name, int(chosen.sum()), float(pairs.scores[chosen].mean()), pairs.select(chosen).metrics())
