"""Training and evaluation data for a loss, from any source."""

from collections.abc import Mapping
from typing import Any

from transformers.trainer_utils import IntervalStrategy

from cosent.data.datasets import Records, TextDataset, read_records
from cosent.data.formats import FORMATS, DataFormat
from cosent.data.sources import Data
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
    if reading.get("data_format", "auto") == "auto" and len(loss.data_formats) == 1:
        (reading["data_format"],) = loss.data_formats
    return read_records(data, **{"likely_format": "triplets"} | reading)


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
    matching = records.data_format == "pairs" and "pairs" not in loss.data_formats and "triplets" in loss.data_formats
    if use_negatives and not matching:
        raise UserError("use_negatives is for a loss of triplets on pairs: it takes those that do not match")
    if not matching:
        return records
    return records.to_triplets(use_negatives=use_negatives, positive_label_min=positive_label_min)


def training_dataset(data: Data, loss: Loss, model: SentenceBert, positive_label_min: float | None) -> TextDataset:
    """Read and tokenise the training data of a trainer; a dataset is taken as it is."""
    if isinstance(data, TextDataset):
        return data
    with first_rank_first():
        records = data if isinstance(data, Records) else read_training(data, loss)
        return suit(records, loss, positive_label_min=positive_label_min).tokenize(model)


def eval_datasets(data: Data, train: TextDataset | None, model: SentenceBert) -> dict[str, TextDataset]:
    """Read and tokenise the evaluation data of a trainer: one dataset, named "", or several by name."""
    if data is None:
        return {}
    parts = data if isinstance(data, Mapping) and not _is_dataset(data) else {"": data}
    return {str(name): _eval_dataset(part, train, model) for name, part in parts.items()}


def _is_dataset(data: Any) -> bool:
    """Tell whether a mapping is a DatasetDict, one of whose splits is meant."""
    return type(data).__name__ == "DatasetDict"


def _eval_dataset(data: Data, train: TextDataset | None, model: SentenceBert) -> TextDataset:
    if isinstance(data, TextDataset):
        return data
    with first_rank_first():
        train_format = None if train is None else train.data_format
        records = data if isinstance(data, Records) else read_held_out(data, train_format, usual_split="validation")
        return records.tokenize(model)


def check_format(loss: Loss, dataset: TextDataset) -> None:
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
            f"{dataset.records.report.path} holds {dataset.data_format}{fix}"
        )


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
    return known.get(wanted, first)


def _prefixed(name: str, metric: str) -> str:
    return f"{name}_{metric}" if name else metric
