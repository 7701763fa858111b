"""How a command runs: its messages, its mistakes, its device, and the ranks that a launcher starts of it."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cosent.cli.parsing import UsageError
from cosent.cli.wording import FlagFormatter, as_flags
from cosent.errors import UserError
from cosent.progress import is_watched

# Seconds in which a launcher ends the other ranks of one that has failed.
_GRACE = 3.0

# What gloo says where another rank is gone; NCCL ends the process.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def run(main: Callable[[], None], *, if_lost: str = "") -> None:
    """Call a command; an error that the user can mend ends it with one message and exit status 1 (2: of its flags).

    Of several ranks the first one speaks. Others say what is wrong only if that did not end the first one, too.

    Args:
        main: what to call.
        if_lost: what can be done where another rank has ended.
    """
    rank, num_ranks = launched_ranks()
    handler = logging.StreamHandler()
    handler.setFormatter(FlagFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("cosent").setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    if num_ranks == 1:
        _call(main, if_lost)
        return
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_call)(main, if_lost)  # torchrun then says what was wrong with the rank that failed first


def hush_libraries() -> None:
    """Let datasets and transformers show no progress bars where nobody looks; they are imported by this."""
    import datasets
    from transformers.utils import logging as transformers_logging

    if not is_watched():
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()


def choose_device(name: str) -> str | None:
    """The device of that name; under a launcher, each rank has a GPU of its own."""
    import torch

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
    from torch import distributed

    from cosent.distributed import PATIENCE

    distributed.init_process_group("gloo", timeout=PATIENCE)  # nothing travels that would be worth a faster way
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _call(main: Callable[[], None], if_lost: str) -> None:
    rank, num_ranks = launched_ranks()
    try:
        main()
    except (UserError, UsageError) as error:
        if rank > 0:
            time.sleep(_GRACE)
        _leave_ranks()
        message = as_flags(f"error on rank {rank}: {error}" if rank else f"error: {error}")
        if isinstance(error, UserError):
            sys.exit(message)
        sys.stderr.write(message + "\n")
        sys.exit(2)
    except RuntimeError as error:
        if num_ranks == 1 or not any(message in str(error) for message in _LOST):
            raise
        sys.exit(
            f"error on rank {rank}: another rank has ended, and this one cannot go on alone; the launcher says below "
            f"which. {if_lost}"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted")


def _leave_ranks() -> None:
    """Close gloo's connections, whose threads would abort the process at its end."""
    if launched_ranks()[1] > 1:
        from torch import distributed

        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()
