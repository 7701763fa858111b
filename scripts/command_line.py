"""What the scripts share: flags or a config file in, one clear line out when something is wrong."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import datasets
import transformers
from transformers import HfArgumentParser

from cosent.errors import UserError
from cosent.progress import is_watched


def parse(*dataclasses: type) -> tuple[Any, ...]:
    """Fill dataclasses from the command line, or from the one .json, .yaml or .yml file that is named there."""
    parser = HfArgumentParser(dataclasses)  # type: ignore[arg-type]
    arguments = sys.argv[1:]
    try:
        if len(arguments) == 1 and arguments[0].endswith(".json"):
            return parser.parse_json_file(arguments[0])
        if len(arguments) == 1 and arguments[0].endswith((".yaml", ".yml")):
            return parser.parse_yaml_file(arguments[0])
    except (FileNotFoundError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{arguments[0]}: {error}") from error
    return parser.parse_args_into_dataclasses()


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
