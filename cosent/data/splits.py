"""Held-out data that shares no text with what is trained on.

Shapes: n examples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosent.data.graphs import components


def _component_of_examples(examples: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(n,) the component of each example: examples that share a text, directly or through others, have the same."""
    node: dict[str, int] = {}
    first = np.array([node.setdefault(texts[0], len(node)) for texts in examples], dtype=np.int64)
    others = [[node.setdefault(text, len(node)) for text in texts[1:]] for texts in examples]
    starts = np.repeat(first, [len(nodes) for nodes in others])
    ends = np.array([end for nodes in others for end in nodes], dtype=np.int64)
    return components(starts, ends, len(node))[first]


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
    component = _component_of_examples(examples)
    sizes = np.bincount(component)
    held_out = np.zeros(len(sizes), dtype=bool)
    room = int(fraction * len(examples))
    for c in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[c] <= room:
            held_out[c] = True
            room -= sizes[c]
    mask = held_out[component]
    return np.flatnonzero(~mask), np.flatnonzero(mask)
