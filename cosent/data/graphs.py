"""Connected components of graphs."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(starts: NDArray[np.int64], ends: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Group nodes that are connected.

    Args:
        starts: (E,) node index of one end of each edge.
        ends: (E,) node index of the other end.
        size: number of nodes.

    Returns:
        (size,) the component of each node.
    """
    graph = coo_array((np.ones(len(ends), np.int8), (starts, ends)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)
