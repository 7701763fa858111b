"""Fine-tune a sentence encoder: cosent train --help, or cosent train config.yaml."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple

from cosent.cli.arguments import DataArguments, DecisionArguments, ModelArguments
from cosent.cli.losses import LossArguments
from cosent.cli.parsing import FlagParser, each_flag_once, require_files, with_config_file
from cosent.cli.running import hush_libraries
from cosent.cli.sample import with_sample
from cosent.cli.sources import mirror
from cosent.training.limits import LimitedArguments, check_limits

if TYPE_CHECKING:
    from cosent.training.arguments import CosentTrainingArguments

_DESCRIPTION = (
    "Fine-tune a sentence encoder. Without a model, the bundled backbone; without training data, the sample data. A "
    ".yaml or .json file may come first and stand for flags; flags behind it win."
)
_EPILOG = "These are cosent's own flags. --help-all shows those of transformers' TrainingArguments, too."
_OF_TRANSFORMERS = "transformers' TrainingArguments"


class TrainArguments(NamedTuple):
    """All arguments of `cosent train`."""

    model: ModelArguments
    data: DataArguments
    loss: LossArguments
    decision: DecisionArguments
    training: "CosentTrainingArguments"


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then train."""
    arguments = _checked(arguments)
    command = shlex.join(["cosent", "train", *each_flag_once(arguments)])
    hush_libraries()
    from cosent.cli.training_run import train

    train(parse(with_config_file(arguments)), command)


def parse(arguments: Sequence[str]) -> TrainArguments:
    """Parse into the real classes, which report mistakes that can only be found after an import."""
    from cosent.training.arguments import CosentTrainingArguments

    kinds = [ModelArguments, DataArguments, LossArguments, DecisionArguments, CosentTrainingArguments]
    parser = FlagParser("train", kinds)
    return TrainArguments(*parser.fill(parser.parse(arguments)))


def flag_parser(*, shows_all: bool = False) -> FlagParser:
    """Make a parser of all flags from the source of their classes.

    Args:
        shows_all: whether the help also shows transformers' flags.
    """
    ours = mirror("cosent.training.arguments", "CosentTrainingArguments", title="training")
    names = [option.name for option in fields(ours)]
    theirs = mirror("transformers.training_args", "TrainingArguments", title=_OF_TRANSFORMERS, without=names)
    kinds = [ModelArguments, DataArguments, LossArguments, DecisionArguments, ours, theirs]
    parser = FlagParser("train", kinds, description=_DESCRIPTION, epilog=None if shows_all else _EPILOG)
    parser.add_argument("--help-all", action="help", help="show the flags of transformers' TrainingArguments, too")
    if not shows_all:
        hidden = {option.name for option in fields(theirs)}
        for action in parser._actions:
            if action.dest in hidden:
                action.help = argparse.SUPPRESS
    return parser


def _checked(arguments: Sequence[str]) -> list[str]:
    """Check all that can be checked at once, and return the arguments, completed by the sample job if needed."""
    parser = flag_parser(shows_all="--help-all" in arguments)
    parser.refuse_unknown(arguments)
    if {"-h", "--help", "--help-all"}.isdisjoint(arguments):
        arguments = with_sample(arguments)
    _, data, _, _, ours, theirs = parser.fill_from(arguments)
    given: LimitedArguments = argparse.Namespace(**vars(theirs), **vars(ours))
    check_limits(given)
    eval_paths = [path for paths in data.eval_data.values() for path in paths]
    require_files(*data.train_data_path, *eval_paths, *data.test_data_path)
    return list(arguments)
