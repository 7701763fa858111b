"""Splits that hold out data without any text in common with the training data.

Shapes: n examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosent.data.graphs import components


def component_of_examples(examples: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Compute (n,) component ids that are equal for examples that share a text, directly or through others.

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
    """Distribute whole components, in random order, over splits of given sizes.

    Args:
        component: (n,) component of each example, counted from 0.
        sizes: capacity of each held-out split in examples; components that fit nowhere are not held out.
        seed: seed of the random order.

    Returns:
        (n,) split of each example, counted from 1; 0 if it is not held out.
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
        fraction: share of the examples to hold out, from 0 to 1; with large components it may be a little less.
        seed: seed of the random order.

    Returns:
        Indices of the kept and of the held-out examples, each ascending; the two sides share no text.
    """
    split = assign_by_component(component_of_examples(examples), [int(fraction * len(examples))], seed)
    return np.flatnonzero(split == 0), np.flatnonzero(split == 1)
