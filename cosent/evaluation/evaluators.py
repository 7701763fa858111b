"""Evaluation of a model on a dataset: embeds each distinct text once and computes the metrics of the data format.

If several processes (ranks) evaluate together, each embeds its share of the texts and the first one scores them.

Shapes: n examples with N texts, U of them distinct, D dimensions.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosent.calibration import Calibration
from cosent.data.datasets import TextDataset, check_model, load_data
from cosent.data.formats import FORMATS, DataFormat
from cosent.data.graphs import components
from cosent.data.positives import is_match
from cosent.data.sources import Data
from cosent.distributed import first_rank_first, num_ranks, on_first_rank, rank, sum_on_first_rank
from cosent.errors import UserError, check_whole
from cosent.evaluation.bootstrap import NUM_RESAMPLES, intervals, resampled_means, resampled_metrics
from cosent.evaluation.geometry import (
    EFFECTIVE_RANK,
    GEOMETRY,
    alignment,
    class_alignment,
    effective_rank,
    uniformity,
)
from cosent.evaluation.metrics import BEST_DECISIONS, CORRELATIONS
from cosent.evaluation.retrieval import NEIGHBORS, RETRIEVAL, neighbor_values, retrieval_values
from cosent.evaluation.scored import ComputeMetrics, ScoredPairs
from cosent.losses import loss_class
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import Tokens
from cosent.similarity import pairwise_cosine

TRIPLETS = ("triplet_accuracy", "mean_margin")
ALIGNMENT_PLUS_UNIFORMITY = "alignment_plus_uniformity"
LOWER_IS_BETTER = (*GEOMETRY, ALIGNMENT_PLUS_UNIFORMITY)

# Names of the arguments of `read_records`.
READING = frozenset(
    ("data_format", "text_columns", "label_column", "on_bad_rows", "max_text_bytes", "split", "revision")
)

_PAIRS_AT_ONCE = 65_536  # bounds the two (pairs, D) copies that scoring makes
_DROPOUT_SEEDS = (0, 1 << 31)  # seeds of two views; each batch adds its number


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation; those that do not apply to the dataset's format are ignored.

    Attributes:
        batch_size: batch size in texts of 128 tokens.
        positive_label_min: the lowest label of a matching pair. None: labels of 0 and 1 are used directly; with graded
            labels, all metrics of decisions are left out.
        threshold: also evaluate the decisions of this threshold on pairs.
        calibration: also evaluate the probabilities that this calibration gives to pairs.
        num_resamples: bootstrap resamples behind the intervals; 0: no intervals.
        seed: seed of the bootstrap.
        index: texts with known classes in which neighbours are searched. None: the dataset's other texts.
        num_neighbors: number of neighbours that vote.
        show_progress_bar: whether to show progress on stderr.
        compute_metrics: also compute metrics of your own for pairs: takes (n,) float64 scores and labels, and returns
            numbers by name. They are resampled for the intervals, too.
    """

    batch_size: int = 64
    positive_label_min: float | None = None
    threshold: float | None = None
    calibration: Calibration | None = None
    num_resamples: int = 0
    seed: int = 0
    index: TextDataset | None = None
    num_neighbors: int = 10
    show_progress_bar: bool = False
    compute_metrics: ComputeMetrics | None = None

    def __post_init__(self) -> None:
        check_whole("num_resamples", self.num_resamples, 0)
        check_whole("num_neighbors", self.num_neighbors, 1)
        if self.positive_label_min is not None and not isinstance(self.positive_label_min, Real):
            raise UserError(f"positive_label_min must be a number, got {self.positive_label_min!r}")


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a model on a dataset.

    Attributes:
        metrics: the metrics by name.
        pairs: the scored pairs behind them, in the data's order; None for other formats.
        intervals: 95% bootstrap intervals by metric.
    """

    metrics: dict[str, float]
    pairs: ScoredPairs | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Embedded:
    """A dataset's U distinct texts, and where each of its N texts is among them; only rank 0 has the embeddings."""

    dataset: TextDataset
    embeddings: Tensor  # (U, D) float32
    text_ids: NDArray[np.int64]  # (U,)
    rows: NDArray[np.int64]  # (N,), example after example
    views: Sequence[Tensor] = ()  # sentences: two more (U, D), under dropout
    index: "_Embedded | None" = None  # classes: where to look for neighbours


def evaluate(
    model: SentenceBert, data: TextDataset | Data, options: EvaluationOptions | None = None, **changes: Any
) -> Evaluation:
    """Embed data and compute the metrics of its format.

    If torch.distributed is initialised, all ranks must call this. All of them get the result, which equals that of a
    single process.

    Args:
        model: the encoder.
        data: a dataset of any format, or any source that `load_data` takes; of its splits, the test data.
        options: the options. None: the decisions of the model's stored threshold, if it has one, and intervals.
        changes: single options to change, by name, such as `positive_label_min=4`, and arguments of `read_records`,
            such as `data_format="classes"`.

    Returns:
        For every format: "n" (the number of examples), "alignment" (if labels say what matches), "uniformity",
        "effective_rank", "seconds" (the time to embed) and "texts_per_second" (distinct texts).
        For pairs: the metrics of `ScoredPairs`.
        For triplets: the means of `retrieval_values` among all positives and negatives. If there are negatives, also
        "triplet_accuracy", the share of (anchor, positive, negative) in which the positive is closer, and
        "mean_margin", how much higher its cosine is.
        For classes: "num_queries", the number of texts whose class can be found, and their means of `neighbor_values`.
        For sentences: "alignment" of two embeddings of a text under dropout, and its sum with "uniformity".

    Raises:
        UserError: if an embedding is not finite, or the data cannot be evaluated; the message says why.
        TypeError: if the data is of a type that is not taken, or there is no such option.
    """
    reading = {name: changes.pop(name) for name in READING & changes.keys()}
    dataset = load_test_data(data, model, **reading)
    options = replace(options or stored_options(model), **changes)
    if options.index is not None:
        options = replace(options, index=options.index.suiting(model))
    index_format = options.index.data_format if options.index is not None else dataset.data_format
    if FORMATS[dataset.data_format].label is str and index_format != dataset.data_format:
        assert options.index is not None
        path = options.index.name
        raise UserError(f"{path} holds {options.index.data_format}: texts with a class are looked for there")
    start = time.perf_counter()
    embedded = _embed(model, dataset, options)
    seconds = time.perf_counter() - start

    def score() -> Evaluation:
        for part in (embedded, embedded.index):
            if part is not None and not part.embeddings.isfinite().all():
                raise UserError("embeddings are not finite; if this is in training, lower the learning rate")
        result = TASKS[dataset.data_format].evaluate(embedded, options)
        if result.pairs is not None:  # own functions may not be sent to other ranks
            result = replace(result, pairs=replace(result.pairs, compute_metrics=None))
        speed = {"seconds": seconds, "texts_per_second": len(embedded.text_ids) / seconds}
        rank_used = {EFFECTIVE_RANK: effective_rank(embedded.embeddings)}
        return replace(result, metrics={"n": len(dataset), **result.metrics, **rank_used, **speed})

    scored = on_first_rank(score)
    if scored.pairs is None:
        return scored
    return replace(scored, pairs=replace(scored.pairs, compute_metrics=options.compute_metrics))


def load_test_data(data: TextDataset | Data, model: SentenceBert, **options: Any) -> TextDataset:
    """Read and tokenise data to evaluate a model on; a dataset with the model's tokens is returned as it is.

    Two columns without names mean what they meant in the model's training data.

    Args:
        data: a dataset, or any source that `load_data` takes; of its splits, the test data.
        model: the model.
        options: further arguments of `read_records`.

    Raises:
        DataError: if the data cannot be used.
        TypeError: if the data is of a type that is not taken.
    """
    check_model(model)
    with first_rank_first():
        if isinstance(data, TextDataset):
            return data.suiting(model)
        return load_data(data, model, **{"likely_format": _likely_format(model), "usual_split": "test"} | options)


def _likely_format(model: SentenceBert) -> DataFormat | None:
    """Return the format that the model was trained on, if known."""
    try:
        loss = loss_class((model.settings.loss or {}).get("name", ""))
    except KeyError:  # a loss defined by the user
        return None
    # two columns never mean plain sentences
    return next(name for name in loss.data_formats if FORMATS[name].num_views == 1)


def stored_options(model: SentenceBert) -> EvaluationOptions:
    """Make the options that follow from a model: its decision and its notion of a match, with intervals.

    A decision about embeddings of another precision or another number of dimensions is not made of these scores.
    """
    decision = model.settings.decision
    if decision is None:
        return EvaluationOptions(num_resamples=NUM_RESAMPLES)
    if decision.precision != "float32" or decision.truncate_dim not in (None, model.embedding_dim):
        return EvaluationOptions(positive_label_min=decision.positive_label_min, num_resamples=NUM_RESAMPLES)
    return EvaluationOptions(
        positive_label_min=decision.positive_label_min,
        threshold=decision.threshold,
        calibration=decision.calibration,
        num_resamples=NUM_RESAMPLES,
    )


def metric_names(dataset: TextDataset, positive_label_min: float | None = None) -> tuple[str, ...]:
    """List the quality metrics that `evaluate` computes for a dataset without a threshold."""
    return (*TASKS[dataset.data_format].metrics(dataset, positive_label_min), EFFECTIVE_RANK)


def is_lower_better(metric: str) -> bool:
    """Tell whether lower values of a metric are better.

    Args:
        metric: its name, which may begin with that of the data, as in "eval_dev_uniformity".
    """
    return any(metric == name or metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)


def default_metric(dataset: TextDataset) -> tuple[str, bool]:
    """Return the default metric for selecting the best model, and whether higher is better."""
    metric = TASKS[dataset.data_format].default_metric(dataset)
    return metric, not is_lower_better(metric)


def _has_negatives(dataset: TextDataset) -> bool:
    return bool((dataset.num_texts > 2).any())


def _evaluate_pairs(embedded: _Embedded, options: EvaluationOptions) -> Evaluation:
    first, second = embedded.rows.reshape(-1, 2).T
    scores = _cosines(embedded.embeddings, first, second).astype(np.float64)
    labels = embedded.dataset.labels
    limit = options.positive_label_min
    matches = is_match(labels, limit)
    if limit is not None and (np.all(matches) or not np.any(matches)):
        raise UserError(
            f"{'every' if np.all(matches) else 'no'} label reaches positive_label_min={limit:g}: "
            f"they go from {labels.min():g} to {labels.max():g}"
        )
    pairs = ScoredPairs(
        scores,
        labels,
        components(first, second, len(embedded.text_ids))[first],
        matches,
        options.threshold,
        None if options.calibration is None else options.calibration(scores),
        options.compute_metrics,
    )
    metrics = pairs.metrics()
    if matches is not None:
        # the squared distance of two unit vectors is 2 - 2 * cosine
        metrics["alignment"] = 2 - 2 * float(np.mean(scores[matches])) if matches.any() else math.nan
    metrics["uniformity"] = uniformity(embedded.embeddings)
    if not options.num_resamples:
        return Evaluation(metrics, pairs)
    resamples = resampled_metrics(pairs, num_resamples=options.num_resamples, seed=options.seed)
    return Evaluation(metrics, pairs, intervals(resamples))


def _evaluate_triplets(embedded: _Embedded, options: EvaluationOptions) -> Evaluation:
    counts = embedded.dataset.num_texts
    anchors_at = np.cumsum(counts) - counts
    column = np.arange(len(embedded.rows)) - np.repeat(anchors_at, counts)
    anchors, positives = embedded.rows[anchors_at], embedded.rows[anchors_at + 1]
    of_example = np.repeat(np.arange(len(counts)), counts)[column > 1]  # (negatives,)
    values: dict[str, NDArray[np.float64]] = {}
    if len(of_example):
        near = _cosines(embedded.embeddings, anchors, positives)[of_example].astype(np.float64)
        margins = near - _cosines(embedded.embeddings, anchors[of_example], embedded.rows[column > 1])
        values = {"triplet_accuracy": (margins > 0).astype(np.float64), "mean_margin": margins}
    candidates, found_at = np.unique(embedded.rows[column > 0], return_inverse=True)
    groups = torch.from_numpy(embedded.dataset.positive_groups(embedded.text_ids))
    retrieval = retrieval_values(
        embedded.embeddings[anchors],
        groups[anchors],
        embedded.embeddings[candidates],
        groups[candidates],
        torch.from_numpy(found_at[column[column > 0] == 1]),
    )
    of_negatives = _means(values, groups[anchors].numpy()[of_example], options)
    of_queries = _means({name: value.numpy() for name, value in retrieval.items()}, groups[anchors].numpy(), options)
    geometry = {
        "alignment": alignment(embedded.embeddings[anchors], embedded.embeddings[positives]),
        "uniformity": uniformity(embedded.embeddings),
    }
    metrics = {**of_negatives.metrics, **of_queries.metrics, **geometry}
    return Evaluation(metrics, intervals={**of_negatives.intervals, **of_queries.intervals})


def _evaluate_classes(embedded: _Embedded, options: EvaluationOptions) -> Evaluation:
    queries, labels = embedded.embeddings[embedded.rows], torch.tensor(embedded.dataset.labels)
    index, other = None, embedded.index
    if other is not None:
        index = other.embeddings[other.rows], torch.tensor(other.dataset.labels)
    values = neighbor_values(queries, labels, index, k=options.num_neighbors)
    num_queries = int(values["nn_accuracy"].isfinite().sum())
    if not num_queries:
        raise UserError(
            f"{embedded.dataset.name}: no text has another of its class to be found; are class names "
            "written as in the training data?"
        )
    result = _means({name: value.numpy() for name, value in values.items()}, embedded.rows, options)
    geometry = {"alignment": class_alignment(queries, labels), "uniformity": uniformity(embedded.embeddings)}
    return replace(result, metrics={"num_queries": num_queries, **result.metrics, **geometry})


def _evaluate_sentences(embedded: _Embedded, options: EvaluationOptions) -> Evaluation:
    near, spread = alignment(*embedded.views), uniformity(embedded.embeddings)
    return Evaluation({ALIGNMENT_PLUS_UNIFORMITY: near + spread, "alignment": near, "uniformity": spread})


def _means(
    values: dict[str, NDArray[np.float64]], clusters: NDArray[np.int64], options: EvaluationOptions
) -> Evaluation:
    """Compute means of (n,) values, ignoring nan, and intervals; dependent values share an id in (n,) clusters."""
    metrics = {name: float(np.nanmean(value)) for name, value in values.items()}
    if not options.num_resamples:
        return Evaluation(metrics)
    resamples = resampled_means(values, clusters, num_resamples=options.num_resamples, seed=options.seed)
    return Evaluation(metrics, intervals=intervals(resamples))


def _embed(model: SentenceBert, dataset: TextDataset, options: EvaluationOptions) -> _Embedded:
    table = dataset.tokens.with_format("arrow")[:]
    columns = {name: table[name].combine_chunks().flatten().to_numpy() for name in ("input_ids", "lengths", "text_ids")}
    texts = Tokens(columns["input_ids"], columns["lengths"].astype(np.int64)).split()
    text_ids, first, rows = np.unique(columns["text_ids"], return_index=True, return_inverse=True)
    distinct = [texts[i] for i in first]
    tokens = Tokens(np.concatenate(distinct), np.array([len(text) for text in distinct]))

    def encode(show_progress_bar: bool = False, dropout_seed: int | None = None) -> Tensor:
        share = rank(), num_ranks()
        mine = model.encode_tokens(
            tokens,
            batch_size=options.batch_size,
            show_progress_bar=show_progress_bar and rank() == 0,
            dropout_seed=dropout_seed,
            share=share,
        )
        return sum_on_first_rank(mine)

    embedded = _Embedded(dataset, encode(options.show_progress_bar), text_ids, rows)
    kind = FORMATS[dataset.data_format]
    if kind.num_views > 1:
        return replace(embedded, views=[encode(dropout_seed=seed) for seed in _DROPOUT_SEEDS])
    if kind.label is str and options.index is not None:
        return replace(embedded, index=_embed(model, options.index, replace(options, index=None)))
    return embedded


def _cosines(embeddings: Tensor, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the cosines between rows of embeddings, given by index."""
    blocks = zip(*(torch.tensor(rows).split(_PAIRS_AT_ONCE) for rows in (first, second)), strict=True)
    return torch.cat([pairwise_cosine(embeddings[one], embeddings[two]) for one, two in blocks]).numpy()


def _pair_metrics(dataset: TextDataset, positive_label_min: float | None) -> tuple[str, ...]:
    if is_match(dataset.labels, positive_label_min) is None:
        return (*CORRELATIONS, "uniformity")
    return (*CORRELATIONS, *BEST_DECISIONS, *GEOMETRY)


@dataclass(frozen=True)
class Task:
    """How a data format is evaluated.

    Attributes:
        evaluate: computes the metrics of an embedded dataset.
        metrics: lists the metrics that are always present, given the dataset and the lowest label of a match.
        default_metric: names the metric that selects the best model.
    """

    evaluate: Callable[[_Embedded, EvaluationOptions], Evaluation]
    metrics: Callable[[TextDataset, float | None], tuple[str, ...]]
    default_metric: Callable[[TextDataset], str]


# A row for each of `cosent.data.formats.FORMATS`.
TASKS: dict[DataFormat, Task] = {
    "pairs": Task(_evaluate_pairs, _pair_metrics, lambda dataset: "spearman"),
    "triplets": Task(
        _evaluate_triplets,
        lambda dataset, _: (*(TRIPLETS if _has_negatives(dataset) else ()), *RETRIEVAL, *GEOMETRY),
        lambda dataset: "triplet_accuracy" if _has_negatives(dataset) else "mrr",
    ),
    "classes": Task(_evaluate_classes, lambda dataset, _: (*NEIGHBORS, *GEOMETRY), lambda dataset: "knn_accuracy"),
    "sentences": Task(
        _evaluate_sentences,
        lambda dataset, _: (ALIGNMENT_PLUS_UNIFORMITY, *GEOMETRY),
        lambda dataset: ALIGNMENT_PLUS_UNIFORMITY,
    ),
}
