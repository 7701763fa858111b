"""Held-out data that shares no text with what is trained on.

Shapes: n examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(examples: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Group examples that share a text, directly or through others.

    Args:
        examples: the texts of n examples, at least one each.

    Returns:
        (n,) the component of each example.
    """
    node: dict[str, int] = {}
    first = np.array([node.setdefault(texts[0], len(node)) for texts in examples], dtype=np.int64)
    other = [[node.setdefault(text, len(node)) for text in texts[1:]] for texts in examples]
    starts = np.repeat(first, [len(nodes) for nodes in other])
    ends = np.array([end for nodes in other for end in nodes], dtype=np.int64)
    graph = coo_array((np.ones(len(ends), np.int8), (starts, ends)), shape=(len(node), len(node)))
    _, component = connected_components(graph, directed=False)
    return component[first].astype(np.int64)


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
    component = components(examples)
    sizes = np.bincount(component)
    held_out = np.zeros(len(sizes), dtype=bool)
    room = int(fraction * len(examples))
    for c in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[c] <= room:
            held_out[c] = True
            room -= sizes[c]
    mask = held_out[component]
    return np.flatnonzero(~mask), np.flatnonzero(mask)
