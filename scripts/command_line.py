"""What the scripts share: flags or a config file, in, one clear line out when something is wrong."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import yaml
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import HfArgumentParser

from cosent import SentenceBert, TextDataset
from cosent.data.layouts import DataFormat
from cosent.errors import OutOfMemoryError, UserError
from cosent.progress import is_watched

# What a format's examples are called.
NOUNS: dict[DataFormat, str] = {
    "pairs": "pairs",
    "sentences": "sentences",
    "triplets": "triplets",
    "classes": "texts with a class",
}

# The fastest rank waits for the slowest, and all wait for what the first one does alone.
_PATIENCE = timedelta(days=30)

# What gloo says where another rank is gone; NCCL ends the process.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


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


def choose_device(name: str) -> str | None:
    """The device of that name; under a launcher, each rank has a GPU of its own."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is not None and (name == "cuda" or name == "auto" and torch.cuda.is_available()):
        return f"cuda:{local_rank}"
    return None if name == "auto" else name


def launched_ranks() -> tuple[int, int]:
    """This process's number, and how many a launcher has started."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Let the processes of a launcher, if there is one, talk to each other; training does this by itself."""
    if launched_ranks()[1] == 1:
        yield
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)  # nothing travels that would be worth a faster way
    try:
        yield
    finally:
        distributed.destroy_process_group()


def run(main: Callable[[], None]) -> None:
    """Call a script's main; an error that the user can mend ends it with one message and exit status 1.

    Of several ranks the first one speaks, and about errors the first one of each machine.
    """
    rank, num_ranks = launched_ranks()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cosent").setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    if not is_watched():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    if num_ranks == 1:
        end_clearly(main)
    else:
        record(end_clearly)(main)  # the launcher then says what was wrong with the rank that failed first


def end_clearly(main: Callable[[], None]) -> None:
    """Call a script's main; turn errors that need no traceback into a message and exit status 1."""
    rank, num_ranks = launched_ranks()
    try:
        main()
    except UserError as error:
        speaks = os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, OutOfMemoryError)
        sys.exit((f"error on rank {rank}: " if rank else "error: ") + str(error) if speaks else 1)
    except RuntimeError as error:
        if num_ranks == 1 or not any(message in str(error) for message in _LOST):
            raise
        sys.exit(
            f"error on rank {rank}: another rank has ended, and this one cannot go on alone. The launcher says below "
            "which was the first. --resume_from_checkpoint last goes on from the last checkpoint; "
            "torchrun --max-restarts 3 does so by itself"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted")
