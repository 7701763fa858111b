"""What is read from sources is what an import gives."""

import inspect

import pytest
from transformers import HfArgumentParser, TrainingArguments

import cosent.calibration
import cosent.evaluation.bootstrap
import cosent.kernels.graphs
import cosent.model.pooling
from cosent import CosentTrainingArguments
from cosent.cli import arguments
from cosent.cli.losses import LossArguments, formats_of
from cosent.cli.sources import constant, mirror, parameters, table_names
from cosent.cli.train import flag_parser
from cosent.inference.embeddings import EncodingOptions
from cosent.losses import LOSSES, loss_class

# What an import alone can tell: levels of logs, a default that depends on torch, a class that no flag can give.
UNTOLD = {"log_level", "log_level_replica", "optim", "parallelism_config"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (cosent.calibration, ["CalibrationMethod"]),
        (cosent.evaluation.bootstrap, ["NUM_RESAMPLES"]),
        (cosent.kernels.graphs, ["CudaGraphs"]),
    ],
)
def test_constants_are_those_of_their_modules(module, names):
    for name in names:
        assert constant(module.__name__, name) == getattr(module, name) == getattr(arguments, name)


def test_names_of_a_table_are_its_keys():
    assert table_names("cosent.model.pooling", "POOLING_MODES") == tuple(cosent.model.pooling.POOLING_MODES)


@pytest.mark.parametrize("name", LOSSES)
def test_flags_of_a_loss_are_what_its_class_takes(name):
    takes = inspect.signature(loss_class(name)).parameters
    found = parameters(*LOSSES[name].split(":"))
    assert [option.name for option in found] == list(takes)
    for option in found:
        assert (option.kind, option.default) == (takes[option.name].annotation, takes[option.name].default)
        assert option.help
    assert formats_of(name) == loss_class(name).data_formats


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(LookupError, match=r"cosent\.calibration assigns nothing to Colour"):
        constant("cosent.calibration", "Colour")


def actions(kinds):
    """What a parser of dataclasses does with each flag, in words that can be compared."""
    found = {}
    for action in HfArgumentParser(kinds)._actions:
        for name in action.option_strings:
            choices = None if action.choices is None else list(action.choices)
            kind = getattr(action.type, "__name__", str(action.type))
            found[name] = (action.dest, action.nargs, action.const, action.default, choices, kind, action.required)
    return found


@pytest.mark.parametrize("kind", [EncodingOptions, TrainingArguments])
def test_mirrored_flags_take_what_those_of_the_class_take(kind):
    theirs, ours = actions([kind]), actions([mirror(kind.__module__, kind.__name__)])
    assert theirs.keys() == ours.keys()
    different = {name.replace("-", "_").lstrip("_") for name in theirs if theirs[name] != ours[name]}
    assert different == (UNTOLD if kind is TrainingArguments else set())


def test_training_flags_are_those_of_the_class():
    kinds = [arguments.ModelArguments, arguments.DataArguments, LossArguments, arguments.DecisionArguments]
    theirs = actions([*kinds, CosentTrainingArguments])
    ours = {name: action for action in flag_parser()._actions for name in action.option_strings}
    assert theirs.keys() == ours.keys() - {"--help-all"}
    for name in theirs.keys() - {f"--{name}" for name in UNTOLD}:
        assert ours[name].default == theirs[name][3] or ours[name].dest in UNTOLD, name
