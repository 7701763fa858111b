"""Held-out data that shares no text with what is trained on.

Shapes: n examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosent.data.graphs import components


def component_of_examples(examples: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(n,) the component of each example: examples that share a text, directly or through others, have the same.

    Args:
        examples: the texts of n examples.
    """
    node: dict[str, int] = {}
    first = np.array([node.setdefault(texts[0], len(node)) for texts in examples], dtype=np.int64)
    others = [[node.setdefault(text, len(node)) for text in texts[1:]] for texts in examples]
    starts = np.repeat(first, [len(nodes) for nodes in others])
    ends = np.array([end for nodes in others for end in nodes], dtype=np.int64)
    return components(starts, ends, len(node))[first]


def assign_by_component(component: NDArray[np.int64], sizes: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Deal whole components, in random order, into splits of given sizes.

    Args:
        component: (n,) the component of each example, counted from 0.
        sizes: examples that each held-out split has room for; what fits nowhere is not held out.
        seed: of the random order.

    Returns:
        (n,) the number of each example's split, from 1; 0 for what is not held out.
    """
    members = np.bincount(component)
    room = np.array(sizes, dtype=np.int64)
    split = np.zeros(len(members), dtype=np.int64)
    for c in np.random.default_rng(seed).permutation(len(members)):
        fitting = np.flatnonzero(members[c] <= room)
        if len(fitting):
            split[c] = fitting[0] + 1
            room[fitting[0]] -= members[c]
    return split[component]


def split_by_component(
    examples: Sequence[Sequence[str]], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out whole components, in random order, up to a fraction of the examples.

    Args:
        examples: the texts of n examples.
        fraction: of the examples to hold out, between 0 and 1; large components may leave it a little short.
        seed: of the random order.

    Returns:
        Indices of the examples to keep and of those held out, each ascending; no text is on both sides.
    """
    split = assign_by_component(component_of_examples(examples), [int(fraction * len(examples))], seed)
    return np.flatnonzero(split == 0), np.flatnonzero(split == 1)
