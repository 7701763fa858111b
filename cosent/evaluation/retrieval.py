"""How well embeddings find what they should: neighbours of the same class, a query's positive. Tensors in, numbers out.

Each figure is a mean over queries; these are its terms, so that a bootstrap can draw queries. Everything runs in blocks
of queries, so that no matrix of all queries by all candidates is ever made.

Shapes: n queries, m candidates, b queries of a block, k neighbours, D dimensions.
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
    """Classify each query by its nearest neighbours, by cosine.

    Args:
        queries: (n, D) embeddings.
        query_labels: (n,) class ids.
        index: (m, D) embeddings of texts whose classes are known, and (m,) their class ids. None: the other queries
            (leave one out).
        k: neighbours that vote; the class with most votes wins, and of several the one with the nearest neighbour.

    Returns:
        (n,) float64 each, nan for queries whose class the index does not have at all: "nn_accuracy", whether the
        nearest neighbour is right; "knn_accuracy", whether the vote of k is; "map_at_r", 1/R * sum over i <= R of [i-th
        is right] * (share of right ones among the first i), R being the class's size in the index.

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
    """The class that most of (b, k) neighbours have, nearest first; (b,)."""
    votes = (neighbors[:, :, None] == neighbors[:, None, :]).sum(2)  # (b, k) for each neighbour's class
    k = neighbors.shape[1]
    order = votes * k - torch.arange(k)  # of equal votes the nearer one counts more
    return neighbors.gather(1, order.argmax(1, keepdim=True))[:, 0]


def _average_precision(right: Tensor, relevant: Tensor) -> Tensor:
    """(b,) average precision over the first R of (b, depth) neighbours; 0 where R is."""
    rank = torch.arange(1, right.shape[1] + 1)
    counted = right & (rank <= relevant[:, None])
    precision = right.cumsum(1) / rank
    return (precision * counted).sum(1) / relevant.clamp_min(1)


def retrieval_values(
    queries: Tensor, query_groups: Tensor, candidates: Tensor, candidate_groups: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Look for each query's target among all candidates, by cosine.

    Args:
        queries: (n, D) embeddings.
        query_groups: (n,) ids that are equal where texts are known to match.
        candidates: (m, D) embeddings.
        candidate_groups: (m,) ids likewise: what matches a query beside its target is not ranked against the target.
        targets: (n,) which candidate is to be found.

    Returns:
        (n,) float64 each: "recall_at_1" and "recall_at_10", whether the target is among the first 1 and 10, and "mrr",
        1 / rank. A candidate that scores the same as the target goes before it.
    """
    ranks = []
    for rows in torch.arange(len(queries)).split(max(1, _SCORES_AT_ONCE // max(len(candidates), 1))):
        scores = cosine_matrix(queries[rows], candidates)  # (b, m)
        own = targets[rows, None]
        others = (query_groups[rows, None] != candidate_groups).scatter(1, own, False)
        ranks.append(1 + ((scores >= scores.gather(1, own)) & others).sum(1))
    rank = torch.cat(ranks).double()
    return dict(zip(RETRIEVAL, ((rank <= 1).double(), (rank <= 10).double(), 1 / rank), strict=True))
