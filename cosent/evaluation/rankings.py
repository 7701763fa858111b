"""Metrics of rankings with graded relevance, query by query: nDCG, MAP, MRR, recall, precision and accuracy at k.

They equal those of trec_eval, which BEIR and MTEB report.

Shapes: Q queries, k ranks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RANKING = ("ndcg", "map", "mrr", "recall", "precision", "accuracy")


def ranking_values(
    relevance: NDArray[np.float64], ideal: NDArray[np.float64], num_relevant: NDArray[np.int64], k_values: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of each query's ranking, at several depths.

    With rel_i the relevance of the document at rank i, 0 if it is not positive, and R the number of relevant documents:

        ndcg@k       DCG@k / (DCG@k of the ideal ranking), where DCG@k = sum over i <= k of rel_i / log2(i + 1)
        map@k        1/R * sum over relevant ranks i <= k of precision@i
        mrr@k        1 / (rank of the first relevant document), 0 if it is below k
        recall@k     (relevant documents among the first k) / R
        precision@k  (relevant documents among the first k) / k
        accuracy@k   whether a document among the first k is relevant

    Args:
        relevance: (Q, k) relevance of the documents in the order of the ranking, 0 beyond its end; k is the largest of
            `k_values`. Documents above 0 are relevant.
        ideal: (Q, k) the k highest relevances that any documents have for the query, highest first, 0 beyond the last.
        num_relevant: (Q,) number of relevant documents, at least 1, whether or not they are in the ranking.
        k_values: the depths.

    Returns:
        (Q,) values for each metric and depth, such as "ndcg@10".

    Raises:
        ValueError: if the arrays are not as deep as the largest depth.

    Reference: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002 (nDCG; with
        trec_eval's discount).
    """
    depth = max(k_values)
    if relevance.shape != ideal.shape or relevance.shape[1] != depth:
        raise ValueError(f"relevance and ideal must have {depth} columns, got {relevance.shape} and {ideal.shape}")
    rank = np.arange(1, depth + 1)
    is_relevant = relevance > 0
    found = is_relevant.cumsum(axis=1)  # (Q, k) relevant documents so far
    total = num_relevant[:, None]
    gain, best_gain = (np.cumsum(np.maximum(each, 0) / np.log2(rank + 1), axis=1) for each in (relevance, ideal))
    at_rank = {
        "ndcg": gain / best_gain,
        "map": np.cumsum(is_relevant * found / rank, axis=1) / total,
        "mrr": np.maximum.accumulate(is_relevant / rank, axis=1),
        "recall": found / total,
        "precision": found / rank,
        "accuracy": (found > 0).astype(np.float64),
    }
    return {f"{name}@{k}": at_rank[name][:, k - 1] for name in RANKING for k in k_values}
