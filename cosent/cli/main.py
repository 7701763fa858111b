"""The program `cosent`: finds the command and runs it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cosent.cli.failures import describe_failure
from cosent.cli.parsing import UsageError, flag_values, likely_name, with_config_file
from cosent.cli.running import run
from cosent.cli.standard_streams import STREAM
from cosent.cli.wording import speak_of
from cosent.errors import UserError
from cosent.files import check_file, check_folder
from cosent.version import __version__

Check = Callable[[str], None]


class Command(NamedTuple):
    """A command of `cosent`; the module with its name has a function `main` that takes the arguments.

    Attributes:
        summary: the description in the list of commands.
        if_lost: advice for when one of its ranks has ended.
        if_full: advice for a full disk, besides freeing space.
        outputs: the flags that name output paths, each with a function that refuses paths that cannot be written.
        default_output: the output path if no flag names one.
    """

    summary: str
    if_lost: str = ""
    if_full: str = ""
    outputs: Mapping[str, Check] = MappingProxyType({})
    default_output: str = ""


def _check_model(path: str) -> None:
    if Path(path).is_dir():  # otherwise the command itself reports the error
        check_folder(path)


def _check_new_file(path: str) -> None:
    if not Path(path).is_file():  # which may be whole, so that nothing is left to do
        check_file(path)


COMMANDS = {
    "train": Command(
        "fine-tune a sentence encoder; without arguments, the bundled one on the sample data",
        "--resume_from_checkpoint last goes on from the last checkpoint; torchrun --max-restarts 3 does so by itself",
        if_full="--resume_from_checkpoint last then goes on from the last whole checkpoint",
        outputs={"output_dir": check_folder},
        default_output="output",
    ),
    "test": Command(
        "say how good an encoder is on held-out data", outputs={"output_dir": check_folder}, default_output="output"
    ),
    "encode": Command("turn a file's texts into embeddings on disk", outputs={"output_path": _check_new_file}),
    "predict": Command("score pairs of texts: of a file, or two given ones", outputs={"output_path": check_file}),
    "search": Command("find the texts of a corpus closest to queries", outputs={"output_path": check_file}),
    "calibrate": Command(
        "choose a model's threshold anew and fit its probabilities, without training",
        outputs={"model_name_or_path": _check_model},
    ),
    "compare": Command(
        "compare two models on the same pairs", outputs={"output_dir": check_folder}, default_output="output"
    ),
    "check": Command("look for what is wrong with data before training on it", outputs={"write_split": check_folder}),
    "build-backbone": Command(
        "build a small BERT with a vocabulary of its own, from scratch", outputs={"output_dir": check_folder}
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: the command's name and its arguments. None: those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "--help"
    command = COMMANDS.get(name, Command(""))
    run(lambda: _run(name, arguments[1:]), if_lost=command.if_lost, if_full=command.if_full)


def _run(name: str, arguments: Sequence[str]) -> None:
    if name in COMMANDS:
        _check_outputs(COMMANDS[name], arguments)
        import_module(f"cosent.cli.{name.replace('-', '_')}").main(arguments)
    elif name in ("-h", "--help", "help"):
        print(_overview())
    elif name == "--version":
        print(f"cosent {__version__}")
    else:
        likely = likely_name(name.replace("_", "-"), COMMANDS)
        meant = f"; did you mean {likely}?" if likely else ""
        raise UsageError(f"cosent has no command {name!r}{meant}\nits commands are {', '.join(COMMANDS)}")


def _check_outputs(command: Command, arguments: Sequence[str]) -> None:
    """Refuse an output that cannot be written, before anything slow begins."""
    speak_of(command.outputs)
    given = {name.lstrip("-").replace("-", "_"): value for name, value in flag_values(with_config_file(arguments))}
    if not given.keys().isdisjoint(("help", "help_all", "resume_from_checkpoint")) or "-h" in arguments:
        return  # a resumed run writes to its checkpoint's folder
    for name, check in command.outputs.items():
        path = given.get(name) or command.default_output
        if path in ("", STREAM):
            continue
        try:
            check(path)
        except OSError as error:
            raise UserError(f"{name}={path!r} cannot be written to: {describe_failure(error)}") from error


def _overview() -> str:
    rows = [f"  {name:16}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: cosent COMMAND ...", "", *rows, "", "`cosent COMMAND --help` lists its flags."])
