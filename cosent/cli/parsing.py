"""Parses flags or a config file into dataclasses; mistakes in flags are reported at once, in a line or two."""

import argparse
import difflib
import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields, is_dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import yaml

from cosent.cli.sources import executed
from cosent.cli.wording import speak_of
from cosent.data.sources import check_sources
from cosent.errors import UserError

if TYPE_CHECKING:
    from transformers import HfArgumentParser
    from transformers.hf_argparser import string_to_bool as _string_to_bool
else:
    # the same parser, loaded from its file alone, because importing transformers takes seconds
    _theirs = executed("transformers", "hf_argparser.py")
    HfArgumentParser, _string_to_bool = _theirs.HfArgumentParser, _theirs.string_to_bool

_REQUIRED = "the following arguments are required: "  # argparse's words

CONFIG_FILES = (".json", ".yaml", ".yml")


class UsageError(Exception):
    """An unknown command or flag, or a missing or wrong value; exit status 2, as with argparse."""


class Positional(NamedTuple):
    """Positional arguments: their name, help, and number in argparse's notation."""

    name: str
    help: str
    number: str = "+"


class FlagParser(HfArgumentParser):
    """Parses the flags of dataclasses as transformers does, with short error messages.

    Args:
        command: the command's name.
        dataclasses: the dataclasses to fill.
        description: what the command does, in a sentence.
        positional: the positional arguments, if any.
        stands_for: flags that are not required if positional arguments are given.
        epilog: the text at the end of the help.
    """

    def __init__(
        self,
        command: str,
        dataclasses: Sequence[type],
        *,
        description: str | None = None,
        positional: Positional | None = None,
        stands_for: Collection[str] = (),
        epilog: str | None = None,
    ):
        usage = f"cosent {command}{f' [{positional.name} ...]' if positional else ''} [--flag value ...]"
        super().__init__(
            dataclasses,  # type: ignore[arg-type]
            prog=f"cosent {command}",
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,  # the sample job looks for full names
        )
        if positional is not None:
            self.add_argument(positional.name, nargs=positional.number, help=positional.help)
        for action in self._actions:
            if action.type is _string_to_bool:
                action.type = string_to_bool
        self._positional = positional
        self._stand_ins = [action for action in self._actions if action.dest in stands_for]
        for action in self._stand_ins:
            action.required = False
        for action in self._actions:
            # transformers adds --no_x to each x that is true by default, with the help of --x
            if isinstance(action, argparse._StoreFalseAction):
                action.help = argparse.SUPPRESS

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse flags; unknown flags are reported before missing ones, as they may be misspellings of them."""
        self.refuse_unknown(arguments)
        speak_of(action.dest for action in self._actions if action.option_strings)
        found, rest = self.parse_known_args(arguments)
        if rest:
            raise UsageError(f"{self.prog} does not know what to do with {' '.join(map(repr, rest))}{self._hint()}")
        if self._positional is not None and not getattr(found, self._positional.name):
            missing = [action.option_strings[0] for action in self._stand_ins if getattr(found, action.dest) is None]
            if missing:
                self.error(f"{_REQUIRED}{', '.join(missing)}")
        return found

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Raise an error for an unknown flag, and suggest the one that was probably meant."""
        for name in flag_names(arguments):
            if name not in self._option_string_actions:
                raise UsageError(f"{self.prog} has no flag {name}{self._meant(name)}{self._hint()}")

    def fill_from(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """Fill the dataclasses from flags; a config file may come first and stands for its own flags."""
        return self.fill(self.parse(with_config_file(arguments)))

    def fill(self, found: argparse.Namespace) -> tuple[Any, ...]:
        """Fill the dataclasses with parsed values."""
        return tuple(
            kind(**{option.name: getattr(found, option.name) for option in fields(kind) if option.init})
            for kind in self.dataclass_types
            if is_dataclass(kind)
        )

    def error(self, message: str) -> NoReturn:
        """Report argparse's error without the usage of a hundred flags."""
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)  # a flag's second spelling
        needs = message.removeprefix(_REQUIRED)
        if needs != message:
            raise UsageError(f"{self.prog} needs {needs}{self._hint()}")
        raise UsageError(f"{message.removeprefix('argument ')}{self._hint()}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            likely = likely_name(str(value), choices)
            meant = f"; did you mean {likely}?" if likely else ""
            raise argparse.ArgumentError(action, f"must be one of {', '.join(choices)}, not {value!r}{meant}")

    def _meant(self, name: str) -> str:
        known = [action.option_strings[0] for action in self._actions if action.option_strings]
        likely = likely_name(name.lstrip("-").replace("-", "_"), [flag.lstrip("-") for flag in known])
        return f"; did you mean --{likely}?" if likely else ""

    def _hint(self) -> str:
        return f"\n`{self.prog} --help` lists its flags"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, if any, and each flag in one spelling: --max_length, not also --max-length."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2 or action.dest == "help":
            return super()._format_action_invocation(action)
        takes = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {takes}".rstrip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return getattr(action.type, "__name__", "value").replace("string_to_bool", "True|False").replace("<lambda>", "")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.required else super()._get_help_string(action)


def with_config_file(arguments: Sequence[str]) -> list[str]:
    """Replace a config file at the beginning of the arguments by its flags."""
    if arguments and arguments[0].endswith(CONFIG_FILES):
        return [*flags_of(arguments[0]), *arguments[1:]]
    return list(arguments)


_OF_YAML_1_1 = ("bool", "int", "float", "timestamp")  # types that YAML 1.2 recognises by other writings, or not at all
_WORDS = {"on": True, "yes": True, "off": False, "no": False}


def string_to_bool(value: str) -> bool:
    """Parse the value of a boolean flag, in any of YAML's spellings."""
    truth = _WORDS.get(value.lower())
    return _string_to_bool(value) if truth is None else truth


class _Number(str):
    """A number as it is written."""

    @property
    def value(self) -> float:
        """The number."""
        return int(self) if self.lstrip("+-").isdecimal() else float(self)


class _Loader(yaml.SafeLoader):
    """Reads only YAML 1.2's booleans and numbers, and keeps numbers as they are written.

    `eval_strategy: no`, `packing: on` and `output_dir: 2024-01-01` stay words, and `seed: 010` is not 8.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _OF_YAML_1_1]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that stands there twice, of which YAML would take the last."""
        names = [name.value for name, _ in node.value]
        twice = next((name for name, _ in node.value if names.count(name.value) > 1), None)
        if twice is not None:
            place = twice.start_mark.line + 1
            raise yaml.YAMLError(f"{twice.value!r} stands there twice, first in line {place}")
        return super().construct_mapping(node, deep)


_TRUTHS = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _TRUTHS, list("tTfF"))
_NUMBER = re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("!number", _NUMBER, list("-+.0123456789"))
_Loader.add_constructor("!number", lambda loader, node: _Number(node.value))


def flags_of(path: str) -> list[str]:
    """Turn a config file's settings into flags, so that both parse alike: YAML itself would read 2e-5 as a string."""
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # noqa: S506  # JSON is YAML, too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as settings: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold settings by name, got {type(settings).__name__}")
    flags = []
    for name, value in settings.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif isinstance(value, str) and value.lower() in _WORDS:
            flags.append(f"--{name}={value.lower()}")
        elif value is not None:
            flags.append(f"--{name}={json.dumps(_with_values(value)) if isinstance(value, dict) else value}")
    return flags


def _with_values(settings: Any) -> Any:
    """Turn the numbers of an option that is a mapping from what is written to what it means."""
    if isinstance(settings, dict):
        return {name: _with_values(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_with_values(value) for value in settings]
    return settings.value if isinstance(settings, _Number) else settings


def flag_names(arguments: Iterable[str]) -> list[str]:
    """List the names of the flags among arguments, without values, up to a separate `--`."""
    names = []
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            names.append(argument.partition("=")[0])
    return names


def flag_values(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first value of each flag among the arguments; "" if a flag has none."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        if argument.startswith("--"):
            name, separator, value = argument.partition("=")
            found.append((name, value if separator or following.startswith("--") else following))
    return found


def each_flag_once(arguments: Sequence[str]) -> list[str]:
    """Drop flags that a later occurrence of the same flag replaces."""
    first: list[str] = []
    by_flag: dict[str, list[str]] = {}
    current = first
    for argument in arguments:
        if argument.startswith("--"):
            key = argument.partition("=")[0].lstrip("-").replace("-", "_")
            by_flag.pop(key, None)
            current = by_flag[key] = []
        current.append(argument)
    return [*first, *(argument for group in by_flag.values() for argument in group)]


def likely_name(name: str, known: Iterable[str]) -> str | None:
    """Guess the name that was meant: the only one with this prefix, else the most similar one."""
    known = list(known)
    begun = [candidate for candidate in known if candidate.startswith(name)]
    return begun[0] if len(begun) == 1 else next(iter(difflib.get_close_matches(name, known, n=1)), None)


def require_files(*paths: str | None) -> None:
    """Refuse missing data files and unknown file types before anything slow begins."""
    for path in paths:
        if path:
            check_sources(path)


def require_apart(outputs: Collection[Path], *inputs: str | None) -> None:
    """Refuse outputs that would overwrite a data file, which may be one of a folder or a glob.

    Args:
        outputs: files that will be written.
        inputs: paths of data files; None is ignored.
    """
    written = {path.resolve(): path for path in outputs if path.exists()}
    for name in filter(None, inputs if written else ()):
        path = Path(name)
        files = path.rglob("*") if path.is_dir() else [path, *map(Path, glob(name, recursive=True))]
        for file in files:
            if file.resolve() in written:
                raise UserError(
                    f"{file} is data, and {written[file.resolve()]} would overwrite it: give another output"
                )


def decoded(argument: str) -> str:
    """Decode a text on the command line, which Python has read in the locale's encoding.

    Args:
        argument: the argument, in which a lone surrogate stands for a byte that the encoding lacks.
    """
    if not any("\ud800" <= character <= "\udfff" for character in argument):
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise UserError(f"the text {argument!r} is not UTF-8") from None
