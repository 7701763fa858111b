"""The training, eval and test data of a training run."""

from dataclasses import dataclass

import numpy as np

from cosent import SentenceBert, TextDataset
from cosent.cli.arguments import DataArguments
from cosent.cli.wording import renamed
from cosent.data.datasets import Records, read_records
from cosent.data.formats import FORMATS
from cosent.data.splits import split_by_component
from cosent.errors import UserError
from cosent.losses import Loss


@dataclass(frozen=True)
class Splits:
    """The training data, the eval data that selects the model, and the test data for the report."""

    train: TextDataset
    eval: TextDataset | None
    test: TextDataset | None


def load_splits(data_args: DataArguments, loss: Loss, model: SentenceBert, seed: int) -> Splits:
    """Read the files; without eval data, hold out training data that shares no text with the rest."""
    reading = data_args.reading_options
    if reading["data_format"] == "auto" and len(loss.data_formats) == 1:
        (reading["data_format"],) = loss.data_formats
    train = read_records(data_args.train_data_path, likely_format="triplets", **reading)
    likely = train.data_format if train.data_format != "sentences" else None
    reading = data_args.eval_reading_options(train.data_format)
    with renamed({name: f"eval_{name}" for name in ("data_format", "text_columns", "label_column")}):
        held_out, test = (
            read_records(path, likely_format=likely, **reading) if path else None
            for path in (data_args.eval_data_path, data_args.test_data_path)
        )
    if held_out is None and data_args.eval_fraction:
        train, held_out = hold_out(train, data_args.eval_fraction, seed)
    if data_args.max_train_samples is not None:
        train = train.sample(data_args.max_train_samples, seed)
    matching = train.data_format == "pairs" and "pairs" not in loss.data_formats and "triplets" in loss.data_formats
    if data_args.use_negatives and not matching:
        raise UserError("--use_negatives is for a loss of triplets on pairs: it takes those that do not match")
    if matching:
        train = train.to_triplets(
            use_negatives=data_args.use_negatives, positive_label_min=data_args.positive_label_min
        )
    return Splits(
        train.tokenize(model),
        held_out.tokenize(model) if held_out is not None else None,
        test.tokenize(model) if test is not None else None,
    )


def hold_out(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Split off a fraction of the examples so that no text is on both sides."""
    kept, out = split_by_component(list(records.texts), fraction, seed)
    if not len(out):
        raise UserError("no training data can be held out, since it all shares texts: give --eval_data_path")
    name = FORMATS[records.data_format].noun
    labelled = "label" in records.rows.column_names
    if labelled and len(np.unique(records.labels[out])) < 2:
        raise UserError(
            f"the {len(out):,} {name} that could be held out do not differ in their labels, so they choose nothing: "
            "give --eval_data_path, another --eval_fraction, or --eval_fraction 0 --eval_strategy no"
        )
    print(f"Holding out {len(out):,} of {len(records):,} {name}, which share no text with the others")
    return records.select(kept), records.select(out)
