"""What the scripts share: flags or a config file, in, one clear line out when something is wrong."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from cosent.distributed import PATIENCE
from cosent.errors import UserError
from cosent.progress import is_watched

# What a format's examples are called.
NOUNS: dict[DataFormat, str] = {
    "pairs": "pairs",
    "sentences": "sentences",
    "triplets": "triplets",
    "classes": "texts with a class",
}

# Seconds in which a launcher ends the other ranks of one that has failed.
_GRACE = 3.0

# What gloo says where another rank is gone; NCCL ends the process.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def parse(*dataclasses: type, positional: tuple[str, str] | None = None) -> tuple[Any, ...]:
    """Fill dataclasses from flags; a .json, .yaml or .yml file may come first and stand for flags of its own.

    Args:
        dataclasses: what there is to fill.
        positional: name and help of arguments without a flag, one or more; then no file stands for flags, and after
            the dataclasses comes a namespace with these.
    """
    # the shell scripts look for whole names
    parser = HfArgumentParser(dataclasses, allow_abbrev=False)  # type: ignore[arg-type]
    arguments = sys.argv[1:]
    if positional is not None:
        parser.add_argument(positional[0], nargs="+", help=positional[1])
    elif arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
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


def show_interval(ends: tuple[float, float] | None) -> str:
    """A metric's interval, or nothing where there is none."""
    return "" if ends is None or math.isnan(ends[0]) else f"{ends[0]:.4f} to {ends[1]:.4f}"


def write_json(path: Path, content: Any) -> None:
    """Write numbers and texts by name; what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    path.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
    distributed.init_process_group("gloo", timeout=PATIENCE)  # nothing travels that would be worth a faster way
    try:
        yield
    finally:
        distributed.destroy_process_group()


def run(main: Callable[[], None], *, if_lost: str = "") -> None:
    """Call a script's main; an error that the user can mend ends it with one message and exit status 1.

    Of several ranks the first one speaks. Others say what is wrong only if that did not end the first one, too.

    Args:
        main: what to call.
        if_lost: what can be done where another rank has ended.
    """
    rank, num_ranks = launched_ranks()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cosent").setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    if not is_watched():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    # torchrun then says what was wrong with the rank that failed first
    (_call if num_ranks == 1 else record(_call))(main, if_lost)


def _call(main: Callable[[], None], if_lost: str) -> None:
    rank, num_ranks = launched_ranks()
    try:
        main()
    except UserError as error:
        if rank > 0:
            time.sleep(_GRACE)
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()  # its threads would abort the process at its end
        sys.exit(f"error on rank {rank}: {error}" if rank else f"error: {error}")
    except RuntimeError as error:
        if num_ranks == 1 or not any(message in str(error) for message in _LOST):
            raise
        sys.exit(
            f"error on rank {rank}: another rank has ended, and this one cannot go on alone; the launcher says below "
            f"which. {if_lost}"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted")
