"""Retrieval metrics: how well embeddings find neighbours of the same class, or a query's positive.

The functions return one value per query rather than the mean, so that a bootstrap can draw queries. They work in blocks
of queries and never build the matrix of all queries by all candidates.

Shapes: n queries, m candidates, b queries in a block, k neighbours, D dimensions.
"""

import math

import torch
from torch import Tensor

from cosent.similarity import cosine_matrix

NEIGHBORS = ("nn_accuracy", "knn_accuracy", "map_at_r")
RETRIEVAL = ("recall_at_1", "recall_at_10", "mrr")

_SCORES_AT_ONCE = 2**24  # 64 MiB of float32


def neighbor_values(
    queries: Tensor, query_labels: Tensor, index: tuple[Tensor, Tensor] | None = None, *, k: int = 10
) -> dict[str, Tensor]:
    """Classify each query by its nearest neighbours in cosine similarity.

    Args:
        queries: (n, D) embeddings.
        query_labels: (n,) class ids.
        index: (m, D) embeddings of texts whose classes are known, and (m,) their class ids. None: the other queries
            (leave one out).
        k: number of neighbours that vote; the class with the most votes wins, and in a tie the one with the nearest
            neighbour.

    Returns:
        (n,) float64 each, nan for queries whose class is not in the index: "nn_accuracy", whether the nearest neighbour
        has the right class; "knn_accuracy", whether the vote of k is right; "map_at_r", 1/R * sum over i <= R of [i-th
        is right] * (share of right ones among the first i), where R is the size of the class in the index.

    Reference: Musgrave, Belongie and Lim, "A Metric Learning Reality Check", 2020, section 3.2 (MAP@R).
    """
    leave_one_out = index is None
    candidates, labels = index or (queries, query_labels)
    classes, members = labels.unique(return_counts=True)
    at = torch.searchsorted(classes, query_labels).clamp_max(len(classes) - 1)
    relevant = torch.where(classes[at] == query_labels, members[at], 0) - int(leave_one_out)  # (n,) R
    depth = min(len(candidates) - leave_one_out, max(k, int(relevant.max())))
    found = []
    for rows in torch.arange(len(queries)).split(max(1, _SCORES_AT_ONCE // max(len(candidates), k**2))):
        scores = cosine_matrix(queries[rows], candidates)  # (b, m)
        if leave_one_out:
            scores[torch.arange(len(rows)), rows] = -math.inf
        neighbors = labels[scores.topk(depth).indices]  # (b, depth)
        right = neighbors == query_labels[rows, None]
        votes = _vote(neighbors[:, :k])
        found.append(
            torch.stack([right[:, 0], votes == query_labels[rows], _average_precision(right, relevant[rows])], 1)
        )
    values = torch.cat(found).double().masked_fill((relevant < 1)[:, None], math.nan)
    return dict(zip(NEIGHBORS, values.unbind(1), strict=True))


def _vote(neighbors: Tensor) -> Tensor:
    """Return the (b,) most frequent classes among (b, k) neighbours, nearest first."""
    votes = (neighbors[:, :, None] == neighbors[:, None, :]).sum(2)  # (b, k) for each neighbour's class
    k = neighbors.shape[1]
    order = votes * k - torch.arange(k)  # in a tie, the nearer neighbour wins
    return neighbors.gather(1, order.argmax(1, keepdim=True))[:, 0]


def _average_precision(right: Tensor, relevant: Tensor) -> Tensor:
    """Compute (b,) average precisions over the first R of (b, depth) neighbours; 0 if R is 0."""
    rank = torch.arange(1, right.shape[1] + 1)
    counted = right & (rank <= relevant[:, None])
    precision = right.cumsum(1) / rank
    return (precision * counted).sum(1) / relevant.clamp_min(1)


def retrieval_values(
    queries: Tensor, query_groups: Tensor, candidates: Tensor, candidate_groups: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Rank each query's target among all candidates, by cosine.

    Args:
        queries: (n, D) embeddings.
        query_groups: (n,) ids that are equal for texts that are known to match.
        candidates: (m, D) embeddings.
        candidate_groups: (m,) ids of the same kind; other candidates that match a query do not count in the ranking.
        targets: (n,) index of each query's target among the candidates.

    Returns:
        (n,) float64 each: "recall_at_1" and "recall_at_10", whether the target is among the first 1 and 10, and "mrr",
        1 / rank. A candidate with the same score as the target ranks before it.
    """
    ranks = []
    for rows in torch.arange(len(queries)).split(max(1, _SCORES_AT_ONCE // max(len(candidates), 1))):
        scores = cosine_matrix(queries[rows], candidates)  # (b, m)
        own = targets[rows, None]
        others = (query_groups[rows, None] != candidate_groups).scatter(1, own, False)
        ranks.append(1 + ((scores >= scores.gather(1, own)) & others).sum(1))
    rank = torch.cat(ranks).double()
    return dict(zip(RETRIEVAL, ((rank <= 1).double(), (rank <= 10).double(), 1 / rank), strict=True))
