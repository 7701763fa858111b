"""Held-out data that shares no text with what is trained on.

Shapes: P pairs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(pairs: list[tuple[str, str]]) -> NDArray[np.int64]:
    """Group pairs that share a text, directly or through others.

    Args:
        pairs: P pairs of texts.

    Returns:
        (P,) the component of each pair.
    """
    node: dict[str, int] = {}
    ends = np.array([[node.setdefault(text, len(node)) for text in pair] for pair in pairs]).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(node), len(node)))
    _, component = connected_components(graph, directed=False)
    return component[ends[:, 0]].astype(np.int64)


def split_by_component(
    pairs: list[tuple[str, str]], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out whole components, in random order, up to a fraction of the pairs.

    Args:
        pairs: P pairs of texts.
        fraction: of the pairs to hold out, between 0 and 1; large components may leave it a little short.
        seed: of the random order.

    Returns:
        Indices of the pairs to keep and of those held out, each ascending; no text is on both sides.
    """
    component = components(pairs)
    sizes = np.bincount(component)
    held_out = np.zeros(len(sizes), dtype=bool)
    room = int(fraction * len(pairs))
    for c in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[c] <= room:
            held_out[c] = True
            room -= sizes[c]
    mask = held_out[component]
    return np.flatnonzero(~mask), np.flatnonzero(mask)
