"""Helpers of the losses: shape checks, and row blocks of matrices too large to hold.

Shapes: K texts per example, B examples, D dimensions.
"""

from collections.abc import Iterator

from torch import Tensor

# The most scores in a block; a single row may have more.
_MAX_SCORES = 1 << 22


def check_labels(embeddings: Tensor, labels: Tensor | None, *, columns: int, meaning: str) -> Tensor:
    """Check that there is one label per example.

    Args:
        embeddings: must be (K, B, D) with K = `columns`.
        labels: must be (B,).
        columns: K, the number of texts per example.
        meaning: what the labels mean to this loss, for the message.

    Returns:
        The labels.

    Raises:
        ValueError: if a shape is wrong or labels are missing.
    """
    if embeddings.ndim != 3 or embeddings.shape[0] != columns:
        raise ValueError(f"embeddings must have shape ({columns}, B, D), got {tuple(embeddings.shape)}")
    if labels is None:
        raise ValueError(f"this loss needs {meaning} as labels (B,), got None; use data with a label column")
    if labels.shape != embeddings.shape[1:2]:
        fix = "; use labels.squeeze(-1)" if labels.ndim == 2 and labels.shape[1] == 1 else ""
        raise ValueError(f"labels must have shape ({embeddings.shape[1]},), got {tuple(labels.shape)}{fix}")
    return labels


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Cut a matrix of scores into row blocks that fit into memory.

    Args:
        num_rows: number of rows of the whole matrix.
        num_columns: number of its columns.

    Returns:
        The rows of each block, in order.
    """
    size = max(1, _MAX_SCORES // max(num_columns, 1))
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))
