"""Which texts are known to match.

Shapes: n examples, N texts of them, U distinct texts.
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
        positive_label_min: the lowest label that does. None: 1 does, and 0 does not; so it is, too, where labels are
            0 and 1 and the minimum, above 1, is meant for other data.

    Returns:
        (n,) booleans, or None where no minimum is given and labels are not 0 and 1.
    """
    binary = bool(np.isin(labels, (0, 1)).all())
    if positive_label_min is not None and not (binary and positive_label_min > 1):
        return labels >= positive_label_min
    return labels == 1 if binary else None


def matching_pairs(
    pairs: Iterable[Sequence[str]], matches: NDArray[np.bool_], *, use_negatives: bool = False
) -> Iterator[Example]:
    """Turn labelled pairs into anchors with their positives, and hard negatives if asked for.

    Args:
        pairs: n pairs of texts; gone through twice if negatives are used.
        matches: (n,) which of them match.
        use_negatives: give an anchor the second texts of all pairs that do not match and have it as their first text.

    Yields:
        (anchor, positive, negatives...) for each pair that matches.
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
    """Texts that match each other, directly or through others: A~B and B~C make A~C.

    Attributes:
        text_ids: (U,) of all texts of the positive pairs, ascending.
        groups: (U,) an id for each that is equal within a group: the smallest of its text ids.
    """

    text_ids: NDArray[np.int64]
    groups: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, text_ids: NDArray[np.int64]) -> "PositiveGroups":
        """Find the groups.

        Args:
            text_ids: (n, 2) the two text ids of each positive pair.

        Returns:
            The groups.
        """
        distinct, ends = np.unique(text_ids, return_inverse=True)
        ends = ends.reshape(-1, 2)
        component = components(ends[:, 0], ends[:, 1], len(distinct))
        first = np.unique(component, return_index=True)[1]  # texts ascend, so a component's first is its smallest
        return cls(distinct, distinct[first[component]])

    def __call__(self, text_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The groups of some texts.

        Args:
            text_ids: (N,) of any texts.

        Returns:
            (N,) their groups' ids; a text of no positive pair is a group of its own.
        """
        if not len(self.text_ids):
            return text_ids
        at = np.minimum(np.searchsorted(self.text_ids, text_ids), len(self.text_ids) - 1)
        return np.where(self.text_ids[at] == text_ids, self.groups[at], text_ids)
