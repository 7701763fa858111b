"""The training, eval and test data of a training run."""

from dataclasses import dataclass, field, replace

import numpy as np

from cosent import SentenceBert, TextDataset
from cosent.cli.arguments import DataArguments, one_or_all
from cosent.cli.wording import renamed
from cosent.data.datasets import Records
from cosent.data.formats import FORMATS
from cosent.data.splits import split_by_component
from cosent.data.streams import TextStream
from cosent.errors import UserError
from cosent.losses import Loss
from cosent.training.data import read_held_out, read_training, stream_training, suit

_READING = ("data_format", "text_columns", "label_column")


@dataclass(frozen=True)
class Splits:
    """The training data, the eval data that selects the model, and the test data for the report.

    Attributes:
        train: the training data, or a stream of it.
        evals: the eval data by name; a single one may have the name "".
        test: the test data, if any.
    """

    train: TextDataset | TextStream
    evals: dict[str, TextDataset] = field(default_factory=dict)
    test: TextDataset | None = None

    @property
    def eval(self) -> TextDataset | None:
        """The first eval data, if any."""
        return next(iter(self.evals.values()), None)

    @property
    def held_out(self) -> dict[str, TextDataset]:
        """The eval and test data by name."""
        evals = {eval_name(name): data for name, data in self.evals.items()}
        return evals | ({} if self.test is None else {"test": self.test})

    @property
    def by_name(self) -> dict[str, TextDataset]:
        """All data by name, except a stream."""
        return ({"train": self.train} if isinstance(self.train, TextDataset) else {}) | self.held_out


def eval_name(name: str) -> str:
    """Name eval data in tables and files: "eval", or "eval_dev" if it has the name "dev"."""
    return f"eval_{name}" if name else "eval"


def load_splits(data_args: DataArguments, loss: Loss, model: SentenceBert, seed: int) -> Splits:
    """Read the data; without eval data, hold out training data that shares no text with the rest."""
    reading = data_args.reading_options
    paths = one_or_all(data_args.train_data_path)
    reading["split"] = data_args.train_split
    least = data_args.positive_label_min
    train: Records | TextStream
    with renamed({"split": "train_split"}):
        if data_args.streaming:
            reading["buffer_size"] = data_args.buffer_size
            train = stream_training(paths, loss, model, positive_label_min=least, **reading)
        else:
            train = read_training(paths, loss, **reading)
    reading = data_args.eval_reading_options(train.data_format)
    with renamed({name: f"eval_{name}" for name in (*_READING, "split")}):
        evals = {
            name: read_held_out(
                one_or_all(paths), train.data_format, usual_split="validation", split=data_args.eval_split, **reading
            )
            for name, paths in data_args.eval_data.items()
        }
    test = None
    if data_args.test_data_path:
        with renamed({name: f"eval_{name}" for name in _READING} | {"split": "test_split"}):
            paths = one_or_all(data_args.test_data_path)
            test = read_held_out(paths, train.data_format, usual_split="test", split=data_args.test_split, **reading)
    if isinstance(train, Records):
        if not evals and data_args.eval_fraction:
            train, evals[""] = hold_out(train, data_args.eval_fraction, seed)
        if data_args.max_train_samples is not None:
            train = train.sample(data_args.max_train_samples, seed)
        train = suit(train, loss, use_negatives=data_args.use_negatives, positive_label_min=least)
    return Splits(
        train.tokenize(model) if isinstance(train, Records) else train,
        {name: records.tokenize(model) for name, records in evals.items()},
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
    held_out = records.select(out)
    report = replace(records.report, path=f"{fraction:g} of {records.name}")
    return records.select(kept), replace(held_out, report=report)
