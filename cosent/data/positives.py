"""Finds the texts that are known to match.

Shapes: n examples with N texts, U of them distinct.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosent.data.graphs import components
from cosent.data.layouts import Example


def is_match(labels: NDArray, positive_label_min: float | None = None) -> NDArray[np.bool_] | None:
    """Tell which labels mean a match.

    Args:
        labels: (n,) numbers.
        positive_label_min: the lowest label of a match. None: labels must be 0 and 1, and 1 is a match. This also
            applies to 0/1 labels if the minimum is above 1, and so meant for other data.

    Returns:
        (n,) booleans, or None if no minimum is given and labels are not 0 and 1.
    """
    binary = bool(np.isin(labels, (0, 1)).all())
    if positive_label_min is not None and not (binary and positive_label_min > 1):
        return labels >= positive_label_min
    return labels == 1 if binary else None


def matching_pairs(
    pairs: Iterable[Sequence[str]], matches: NDArray[np.bool_], *, use_negatives: bool = False
) -> Iterator[Example]:
    """Turn matching pairs into anchors with positives, optionally with hard negatives from the other pairs.

    Args:
        pairs: n pairs of texts; iterated twice if negatives are used.
        matches: (n,) booleans, which pairs match.
        use_negatives: use the second texts of non-matching pairs as hard negatives of their first text.

    Yields:
        (anchor, positive, negatives...) for each matching pair.
    """
    negatives: dict[str, list[str]] = defaultdict(list)
    if use_negatives:
        for (first, second), match in zip(pairs, matches, strict=True):
            if not match and second not in negatives[first]:
                negatives[first].append(second)
    for (first, second), match in zip(pairs, matches, strict=True):
        if match:
            yield Example((first, second, *negatives.get(first, ())))


@dataclass(frozen=True)
class PositiveGroups:
    """Groups of texts that match each other, directly or through others: A~B and B~C imply A~C.

    Attributes:
        text_ids: (U,) text ids of all texts in positive pairs, ascending.
        groups: (U,) their group ids; a group's id is its smallest text id.
    """

    text_ids: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, text_ids: NDArray[np.int64]) -> "PositiveGroups":
        """Find the groups.

        Args:
            text_ids: (n, 2) text ids of the positive pairs.

        Returns:
            The groups.
        """
        distinct, ends = np.unique(text_ids, return_inverse=True)
        ends = ends.reshape(-1, 2)
        component = components(ends[:, 0], ends[:, 1], len(distinct))
        first = np.unique(component, return_index=True)[1]  # text ids ascend, so a component's first is its smallest
        return cls(distinct, distinct[first[component]])

    def __call__(self, text_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look up the groups of texts.

        Args:
            text_ids: (N,) ids of any texts.

        Returns:
            (N,) group ids; a text that is in no positive pair is its own group.
        """
        if not len(self.text_ids):
            return text_ids
        at = np.minimum(np.searchsorted(self.text_ids, text_ids), len(self.text_ids) - 1)
        return np.where(self.text_ids[at] == text_ids, self.groups[at], text_ids)
