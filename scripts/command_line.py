"""What the scripts share: flags or a config file, in, one clear line out when something is wrong."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import transformers
import yaml
from transformers import HfArgumentParser

from cosent import SentenceBert, TextDataset
from cosent.data.layouts import DataFormat
from cosent.errors import UserError
from cosent.progress import is_watched

# What a format's examples are called.
NOUNS: dict[DataFormat, str] = {
    "pairs": "pairs",
    "sentences": "sentences",
    "triplets": "triplets",
    "classes": "texts with a class",
}


def parse(*dataclasses: type) -> tuple[Any, ...]:
    """Fill dataclasses from flags; a .json, .yaml or .yml file may come first and stand for flags of its own."""
    # the shell scripts look for whole names
    parser = HfArgumentParser(dataclasses, allow_abbrev=False)  # type: ignore[arg-type]
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        arguments = [*flags_of(arguments[0]), *arguments[1:]]
    try:
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ValueError as error:
        raise UserError(str(error)) from error


def flags_of(path: str) -> list[str]:
    """A config file's settings as flags, so that they mean the same: YAML alone would read 2e-5 as a text."""
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML, too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as settings: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold settings by name, got {type(settings).__name__}")
    flags = []
    for name, value in settings.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def unknown_tokens(data: TextDataset, model: SentenceBert) -> str:
    """A remark where the tokenizer does not know the data's language."""
    share = data.token_share(model.tokenizer.unk_token_id)
    return f"; {share:.0%} of tokens are unknown to this model's tokenizer" if share > 0.05 else ""


def run(main: Callable[[], None]) -> None:
    """Call a script's main; an error that the user can mend ends it with one message and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cosent").setLevel(logging.INFO)
    if not is_watched():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
