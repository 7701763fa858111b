"""Embed a labelled dataset, each distinct text once, and turn its scores into metrics.

Shapes: n pairs, U distinct texts, D dimensions.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from cosent.errors import UserError
from cosent.evaluation.metrics import BEST_DECISIONS, CORRELATIONS, best_decisions, correlations, decision
from cosent.modeling import SentenceBert
from cosent.similarity import pairwise_cosine
from cosent.tokens import Tokens

_PAIRS_AT_ONCE = 65_536  # bounds the two (pairs, D) copies that scoring makes


@dataclass(frozen=True)
class PairEvaluation:
    """Metrics by name, and the (n,) float32 scores behind them, in the data's order."""

    metrics: dict[str, float]
    scores: NDArray[np.float32]


def evaluate_pairs(
    model: SentenceBert,
    tokens: Dataset,
    *,
    batch_size: int = 64,
    positive_label_min: float | None = None,
    threshold: float | None = None,
    show_progress_bar: bool = False,
) -> PairEvaluation:
    """Score labelled pairs by cosine and say how well the scores do.

    Args:
        model: the encoder.
        tokens: the `tokens` of a `PairDataset`.
        batch_size: texts in a batch.
        positive_label_min: labels from here on are a match. None: labels of 0 and 1 are taken as they are, and
            graded labels leave out every metric about decisions.
        threshold: also say how good this threshold's decisions are.
        show_progress_bar: whether to show progress on stderr.

    Returns:
        "n" pairs; the metrics of `correlations`; where labels say what matches, those of `best_decisions` and, with
        a threshold, of `decision`; "seconds", and "texts_per_second" of distinct texts embedded.

    Raises:
        UserError: if an embedding is not finite, or all labels are on one side of positive_label_min.
    """
    start = time.perf_counter()
    distinct, rows = _distinct_texts(tokens)  # rows: (n, 2) into the U distinct texts
    embeddings = model.encode_tokens(distinct, batch_size=batch_size, show_progress_bar=show_progress_bar)  # (U, D)
    scores = _score(embeddings, rows)
    if not np.isfinite(scores).all():
        raise UserError("the model's embeddings are not finite; if this is in training, lower the learning rate")
    labels = tokens.with_format("arrow")["labels"][:].to_numpy()  # float64: numpy's format would round to float32
    metrics: dict[str, float] = {"n": len(scores), **correlations(scores, labels)}
    matches = is_match(labels, positive_label_min)
    if positive_label_min is not None and (np.all(matches) or not np.any(matches)):
        raise UserError(
            f"{'every' if np.all(matches) else 'no'} label reaches --positive_label_min {positive_label_min:g}: "
            f"they go from {labels.min():g} to {labels.max():g}"
        )
    if matches is not None:
        metrics.update(best_decisions(scores, matches))
        if threshold is not None:
            metrics.update(decision(scores.astype(np.float64), matches, threshold))
    seconds = time.perf_counter() - start
    return PairEvaluation({**metrics, "seconds": seconds, "texts_per_second": len(distinct) / seconds}, scores)


def is_match(labels: NDArray, positive_label_min: float | None = None) -> NDArray[np.bool_] | None:
    """Tell which labels mean a match.

    Args:
        labels: (n,) numbers.
        positive_label_min: the lowest label that does; None: 1 does, and 0 does not.

    Returns:
        (n,) booleans, or None where no minimum is given and labels are not 0 and 1.
    """
    if positive_label_min is not None:
        return labels >= positive_label_min
    return labels == 1 if np.isin(labels, (0, 1)).all() else None


def pair_metric_names(labels: NDArray, positive_label_min: float | None = None) -> tuple[str, ...]:
    """The quality metrics that `evaluate_pairs` gives without a threshold for such labels."""
    return CORRELATIONS if is_match(labels, positive_label_min) is None else CORRELATIONS + BEST_DECISIONS


def _distinct_texts(tokens: Dataset) -> tuple[Tokens, NDArray[np.int64]]:
    table = tokens.with_format("arrow")[:]
    columns = {name: table[name].combine_chunks().flatten().to_numpy() for name in ("input_ids", "lengths", "text_ids")}
    texts = Tokens(columns["input_ids"], columns["lengths"].astype(np.int64)).split()
    _, first, rows = np.unique(columns["text_ids"], return_index=True, return_inverse=True)
    distinct = [texts[i] for i in first]
    return Tokens(np.concatenate(distinct), np.array([len(text) for text in distinct])), rows.reshape(-1, 2)


def _score(embeddings: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    blocks = torch.from_numpy(rows).split(_PAIRS_AT_ONCE)
    return torch.cat([pairwise_cosine(embeddings[block[:, 0]], embeddings[block[:, 1]]) for block in blocks]).numpy()
