"""Training and evaluation data for a loss, from any source."""

import math
from collections.abc import Mapping
from typing import Any

from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from cosent.data.datasets import Records, TextDataset, check_model, read_records
from cosent.data.formats import FORMATS, DataFormat
from cosent.data.shown import shown
from cosent.data.sources import Data, is_dataset_dict, is_stream
from cosent.data.streams import TextStream, stream_data
from cosent.distributed import first_rank_first
from cosent.errors import UserError
from cosent.evaluation.evaluators import EvaluationOptions, default_metric, metric_names
from cosent.losses import Loss
from cosent.model.encoder import SentenceBert
from cosent.training.arguments import CosentTrainingArguments


def read_training(data: Data, loss: Loss, **reading: Any) -> Records:
    """Read training data, in the format of the loss if it has only one.

    Args:
        data: anything that `read_records` takes.
        loss: the loss that learns from the data.
        reading: further arguments of `read_records`.

    Raises:
        DataError: if the data cannot be used.
    """
    return read_records(data, **_likely(loss, reading))


def _likely(loss: Loss, reading: dict[str, Any]) -> dict[str, Any]:
    """Complete the arguments of `read_records` by what a loss learns from."""
    if reading.get("data_format", "auto") == "auto" and len(loss.data_formats) == 1:
        reading = reading | {"data_format": loss.data_formats[0]}
    return {"likely_format": "triplets"} | reading


def _takes_matches(data_format: DataFormat, loss: Loss) -> bool:
    """Tell whether a loss of triplets learns from the pairs that match."""
    return data_format == "pairs" and "pairs" not in loss.data_formats and "triplets" in loss.data_formats


def read_held_out(data: Data, train_format: DataFormat | None, *, usual_split: str, **reading: Any) -> Records:
    """Read evaluation data; two columns without names mean what they mean in the training data.

    Args:
        data: anything that `read_records` takes.
        train_format: the format of the training data. None: unknown.
        usual_split: the split to take if none is named, "validation" or "test".
        reading: further arguments of `read_records`.

    Raises:
        DataError: if the data cannot be used.
    """
    likely = train_format if train_format != "sentences" else None
    return read_records(data, likely_format=likely, usual_split=usual_split, **reading)


def suit(
    records: Records, loss: Loss, *, use_negatives: bool = False, positive_label_min: float | None = None
) -> Records:
    """Turn pairs into triplets if the loss learns from triplets only.

    Args:
        records: the training data.
        loss: the loss.
        use_negatives: use the second texts of non-matching pairs as hard negatives of their first text.
        positive_label_min: the lowest label of a match; 0/1 labels need none.

    Raises:
        UserError: if `use_negatives` is set for other data, or labels do not say what matches.
    """
    matching = _takes_matches(records.data_format, loss)
    if use_negatives and not matching:
        raise UserError("use_negatives is for a loss of triplets on pairs: it takes those that do not match")
    if not matching:
        return records
    return records.to_triplets(use_negatives=use_negatives, positive_label_min=positive_label_min)


def training_dataset(
    data: Data, loss: Loss, model: SentenceBert, positive_label_min: float | None
) -> TextDataset | TextStream:
    """Read and tokenise the training data of a trainer; a dataset is taken as it is, and a stream stays one."""
    if isinstance(data, TextDataset):
        return data.suiting(model)
    if isinstance(data, TextStream):
        if _takes_matches(data.data_format, loss):
            data.to_triplets(positive_label_min=positive_label_min)
        return data
    if is_stream(data):
        return stream_training(data, loss, model, positive_label_min=positive_label_min)
    with first_rank_first():
        records = data if isinstance(data, Records) else read_training(data, loss)
        return suit(records, loss, positive_label_min=positive_label_min).tokenize(model)


def stream_training(
    data: Data, loss: Loss, model: SentenceBert, *, positive_label_min: float | None = None, **options: Any
) -> TextStream:
    """Make a stream of training data, in the format of the loss if it has only one.

    Args:
        data: anything that `read_records` takes.
        loss: the loss that learns from the data.
        model: the model whose tokenizer and maximum length are used.
        positive_label_min: the lowest label of a match, if a loss of triplets learns from pairs.
        options: further arguments of `stream_data`.

    Raises:
        DataError: if the data cannot be used.
    """
    stream = stream_data(data, model, **_likely(loss, options))
    if _takes_matches(stream.data_format, loss):
        stream.to_triplets(positive_label_min=positive_label_min)
    return stream


def eval_datasets(data: Data, train: TextDataset | TextStream | None, model: SentenceBert) -> dict[str, TextDataset]:
    """Read and tokenise the evaluation data of a trainer: one dataset, named "", or several by name."""
    if data is None:
        return {}
    if isinstance(data, Mapping) and "" in data and len(data) > 1:
        raise UserError("one of several eval datasets has the name '': give each a name")
    parts = data if isinstance(data, Mapping) and not is_dataset_dict(data) else {"": data}
    return {str(name): _eval_dataset(part, train, model) for name, part in parts.items()}


def _eval_dataset(data: Data, train: TextDataset | TextStream | None, model: SentenceBert) -> TextDataset:
    if isinstance(data, TextDataset):
        return data.suiting(model)
    with first_rank_first():
        train_format = None if train is None else train.data_format
        records = data if isinstance(data, Records) else read_held_out(data, train_format, usual_split="validation")
        return records.tokenize(model)


def check_types(model: Any, args: Any, loss: Any) -> None:
    """Refuse what a trainer cannot be made of.

    Raises:
        TypeError: if so.
    """
    check_model(model)
    if not isinstance(args, CosentTrainingArguments):
        raise TypeError(f"args must be CosentTrainingArguments, got {type(args).__name__}")
    if isinstance(loss, type) or not hasattr(loss, "data_formats"):
        raise TypeError(f"loss must be a loss, such as CoSENTLoss(); got {shown(loss)}")


def check_format(loss: Loss, dataset: TextDataset | TextStream) -> None:
    """Refuse data that a loss does not learn from.

    Raises:
        UserError: if so.
    """
    if dataset.data_format not in loss.data_formats:
        fix = ""
        if FORMATS[dataset.data_format].label is float and "triplets" in loss.data_formats:
            fix = "; make triplets of the pairs that match with Records.to_triplets, as `cosent train` does"
        raise UserError(
            f"{type(loss).__name__} learns from {' or '.join(loss.data_formats)}, and "
            f"{dataset.name} holds {dataset.data_format}{fix}"
        )


def settle_stream(args: CosentTrainingArguments) -> None:
    """Check that the arguments allow a stream, which has no length; once an epoch becomes ten times a run.

    Args:
        args: the arguments, which are changed.

    Raises:
        UserError: if they need all data.
    """
    if args.max_steps <= 0:
        raise UserError("a stream has no end: max_steps says how long to train")
    for name, needs in (
        ("no_duplicate_texts", args.no_duplicate_texts),
        ("group_by_length", args.train_sampling_strategy == "group_by_length"),
        ("auto_find_batch_size", args.auto_find_batch_size),
    ):
        if needs:
            raise UserError(f"{name} needs to see all data, which a stream does not")
    if args.eval_strategy == IntervalStrategy.EPOCH:
        args.eval_strategy = IntervalStrategy.STEPS
        args.eval_steps = max(1, math.ceil(args.max_steps / 10))
    if args.save_strategy == SaveStrategy.EPOCH:
        args.save_strategy = SaveStrategy.STEPS
        args.save_steps = args.eval_steps or max(1, math.ceil(args.max_steps / 10))


def settle_metric(
    args: CosentTrainingArguments, datasets: Mapping[str, TextDataset], evaluation: EvaluationOptions
) -> str:
    """Choose the metric for the best model if it is "auto", and check that the metric exists.

    Args:
        args: the arguments, which are changed.
        datasets: the evaluation data by name; a single one has the name "".
        evaluation: how the data is evaluated.

    Returns:
        The name of the dataset that selects the best model.

    Raises:
        UserError: if the metric is unknown, or there is no evaluation data but evaluation is asked for.
    """
    if not datasets:
        if args.eval_strategy != IntervalStrategy.NO:
            raise UserError("there is no eval data: give some, or set eval_strategy to 'no'")
        return ""
    first = next(iter(datasets))
    if args.metric_for_best_model == "auto":
        metric, args.greater_is_better = default_metric(datasets[first])
        args.metric_for_best_model = f"eval_{_prefixed(first, metric)}"
    known = {
        f"eval_{_prefixed(name, metric)}": name
        for name, dataset in datasets.items()
        for metric in metric_names(dataset, evaluation.positive_label_min)
    }
    wanted = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    may_be_own = evaluation.compute_metrics is not None
    if args.eval_strategy != IntervalStrategy.NO and wanted not in known and not may_be_own:
        raise UserError(
            f"metric_for_best_model='{args.metric_for_best_model}' is none of the metrics of this eval data: "
            + ", ".join(known)
        )
    if wanted in known:
        return known[wanted]
    # a metric of one's own
    prefixes = [name for name in datasets if name and wanted.startswith(f"eval_{name}_")]
    return max(prefixes, key=len, default=first)


def _prefixed(name: str, metric: str) -> str:
    return f"{name}_{metric}" if name else metric
