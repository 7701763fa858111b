"""The program `cosent`: finds the command and runs it."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from cosent.cli.parsing import UsageError, likely_name
from cosent.cli.running import run
from cosent.version import __version__


class Command(NamedTuple):
    """A command of `cosent`; the module of its name has a function `main`, which takes the arguments.

    Attributes:
        summary: what it does, in the list of commands.
        if_lost: what can be done where one of its ranks has ended.
    """

    summary: str
    if_lost: str = ""


COMMANDS = {
    "train": Command(
        "fine-tune a sentence encoder; without arguments, the bundled one on the sample data",
        "--resume_from_checkpoint last goes on from the last checkpoint; torchrun --max-restarts 3 does so by itself",
    ),
    "test": Command("say how good an encoder is on held-out data"),
    "encode": Command("turn a file's texts into embeddings on disk"),
    "predict": Command("score pairs of texts: of a file, or two given ones"),
    "calibrate": Command("choose a model's threshold anew and fit its probabilities, without training"),
    "compare": Command("compare two models on the same pairs"),
    "check": Command("look for what is wrong with data before training on it"),
    "build-backbone": Command("build a small BERT with a vocabulary of its own, from scratch"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: its name and what it takes. None: those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "--help"
    run(lambda: _run(name, arguments[1:]), if_lost=COMMANDS[name].if_lost if name in COMMANDS else "")


def _run(name: str, arguments: Sequence[str]) -> None:
    if name in COMMANDS:
        import_module(f"cosent.cli.{name.replace('-', '_')}").main(arguments)
    elif name in ("-h", "--help", "help"):
        print(_overview())
    elif name == "--version":
        print(f"cosent {__version__}")
    else:
        likely = likely_name(name.replace("_", "-"), COMMANDS)
        meant = f"; did you mean {likely}?" if likely else ""
        raise UsageError(f"cosent has no command {name!r}{meant}\nits commands are {', '.join(COMMANDS)}")


def _overview() -> str:
    rows = [f"  {name:16}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: cosent COMMAND ...", "", *rows, "", "`cosent COMMAND --help` lists its flags."])
