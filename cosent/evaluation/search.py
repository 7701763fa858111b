"""Evaluation of semantic search: queries, a corpus, and judgements of which documents are relevant to which queries.

Shapes: Q queries, k ranks.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cosent.errors import UserError
from cosent.evaluation.bootstrap import NUM_RESAMPLES, intervals, resampled_means
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.rankings import ranking_values
from cosent.model.encoder import SentenceBert
from cosent.model.search import search

logger = logging.getLogger(__name__)

K_VALUES = (1, 5, 10, 100)

Qrels = Mapping[str, Mapping[str, float]]  # query id -> document id -> relevance
_Ranking = list[tuple[float, float]]  # relevance and score by rank


@dataclass(frozen=True)
class RetrievalEvaluation(Evaluation):
    """The result of evaluating a model's search; the bootstrap behind its intervals draws queries.

    Attributes:
        query_ids: the ids of the Q evaluated queries.
        values: (Q,) values of the metrics that are means over queries, by metric.
    """

    query_ids: list[str] = field(default_factory=list)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def evaluate_retrieval(
    model: SentenceBert,
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    qrels: Qrels,
    *,
    k_values: Sequence[int] = K_VALUES,
    ignore_identical_ids: bool = False,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 64,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    show_progress_bar: bool | None = None,
) -> RetrievalEvaluation:
    """Search a corpus for each query, and measure where the relevant documents are ranked.

    Documents with equal scores are ranked by id, the highest in the order of its characters first. This is the rule of
    trec_eval; the order of the corpus has no influence.

    Args:
        model: the encoder.
        queries: texts by query id.
        corpus: texts by document id.
        qrels: relevance by query id and document id. A document is relevant if its relevance is above 0, and the more
            so the higher it is. Documents without a relevance are not relevant. Relevant documents that the corpus
            lacks count as not found.
        k_values: depths of the metrics.
        ignore_identical_ids: leave the document with the query's own id out of the ranking, for queries that are
            themselves in the corpus.
        query_prompt: prefix for the queries. None: the checkpoint's; see `search`.
        document_prompt: prefix for the documents. None: the checkpoint's; see `search`.
        batch_size: batch size in texts of 128 tokens.
        num_resamples: bootstrap resamples behind the intervals; 0: no intervals.
        seed: seed of the bootstrap.
        show_progress_bar: whether to show progress. None: in a terminal, for more than one batch.

    Returns:
        The means of `ranking_values` over the queries with relevant documents. Also "n", the number of these queries;
        "num_left_out", the number of other queries; "num_documents"; and "num_tied", the number of queries whose
        ranking, down to the largest depth, has documents of different relevance but equal scores side by side.

    Raises:
        UserError: if no query has a relevant document, or an option is out of range.
    """
    if not k_values or min(k_values) < 1:
        raise UserError(f"k_values must all be at least 1, got {list(k_values)}")
    query_ids = _judged_queries(queries, corpus, qrels)
    document_ids = sorted(corpus, reverse=True)  # `search` keeps this order where scores are equal
    hits = search(
        model,
        [queries[name] for name in query_ids],
        [corpus[name] for name in document_ids],
        top_k=max(k_values) + ignore_identical_ids,
        batch_size=batch_size,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        show_progress_bar=show_progress_bar,
    )
    rankings = [
        _ranking(name, zip([document_ids[i] for i in indices], scores, strict=True), qrels[name], ignore_identical_ids)
        for name, indices, scores in zip(query_ids, *hits, strict=True)
    ]
    values = _values(rankings, [qrels[name] for name in query_ids], k_values)
    counts = {
        "n": len(query_ids),
        "num_left_out": len(queries) - len(query_ids),
        "num_documents": len(corpus),
        "num_tied": sum(_has_tie(ranking[: max(k_values)]) for ranking in rankings),
    }
    metrics = {name: float(value.mean()) for name, value in values.items()}
    first: dict[str, int] = {}
    clusters = np.array([first.setdefault(queries[name], len(first)) for name in query_ids])  # by text
    resamples = resampled_means(values, clusters, num_resamples=num_resamples, seed=seed) if num_resamples else {}
    return RetrievalEvaluation(counts | metrics, intervals=intervals(resamples), query_ids=query_ids, values=values)


def _judged_queries(queries: Mapping[str, str], corpus: Mapping[str, str], qrels: Qrels) -> list[str]:
    """List the queries with relevant documents, and log which judgements cannot be used as they are meant."""
    relevant = {name: [document for document, value in judged.items() if value > 0] for name, judged in qrels.items()}
    judged = [name for name in queries if relevant.get(name)]
    if not judged:
        raise UserError(
            f"none of the {len(queries):,} queries has a relevant document in the qrels: check that both use the same "
            "ids"
        )
    unknown = sum(name not in queries for name in relevant)
    if unknown:
        logger.warning("%d judged queries are not among the queries, and are left out", unknown)
    missing = sum(document not in corpus for name in judged for document in relevant[name])
    if missing:
        logger.warning("%d relevant documents are not in the corpus, and count as not found", missing)
    return judged


def _ranking(
    name: str, found: Iterable[tuple[str, float]], judged: Mapping[str, float], ignore_identical_ids: bool
) -> _Ranking:
    """Look up the relevance of the documents that were found for a query."""
    return [
        (max(judged.get(document, 0), 0), score)
        for document, score in found
        if not (ignore_identical_ids and document == name)
    ]


def _has_tie(ranking: _Ranking) -> bool:
    return any(score == after and relevance != other for (relevance, score), (other, after) in pairwise(ranking))


def _values(
    rankings: Sequence[_Ranking], judged: Sequence[Mapping[str, float]], k_values: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of rankings from their documents' relevance and that of all judged documents."""
    depth = max(k_values)
    relevance, ideal = np.zeros((2, len(rankings), depth))
    for row, (ranking, known) in enumerate(zip(rankings, judged, strict=True)):
        for columns, best in (
            (relevance, [value for value, _ in ranking]),
            (ideal, sorted((max(value, 0) for value in known.values()), reverse=True)),
        ):
            columns[row, : len(best)] = best[:depth]
    num_relevant = np.array([sum(value > 0 for value in known.values()) for known in judged])
    return ranking_values(relevance, ideal, num_relevant, k_values)
