"""Runs a command: messages, errors, the device, and the ranks that a launcher starts."""

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cosent.cli.failures import describe_failure
from cosent.cli.parsing import UsageError
from cosent.cli.wording import FlagFormatter, as_flags
from cosent.errors import UserError
from cosent.files import writing
from cosent.progress import is_watched

# Seconds within which a launcher ends the other ranks after one has failed.
_GRACE = 3.0

# gloo's messages when another rank is gone; NCCL ends the process.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


_STDOUT = "standard output"

# A shell's exit status for a program ended by a signal.
_PIPE_STATUS = 128 + signal.SIGPIPE
_TERMINATED_STATUS = 128 + signal.SIGTERM


class _Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that temporary files are removed, as on SIGINT."""


def run(main: Callable[[], None], *, if_lost: str = "", if_full: str = "") -> None:
    """Call a command; an error that the user can fix ends it with one message and exit status 1, or 2 for flags.

    With several ranks, only the first prints messages. Others report an error only if it did not also end the first.

    Args:
        main: the command's function.
        if_lost: advice for when another rank has ended.
        if_full: advice for a full disk, besides freeing space.
    """
    rank, num_ranks = launched_ranks()
    handler = logging.StreamHandler()
    handler.setFormatter(FlagFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("cosent").setLevel(logging.INFO if rank == 0 else logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets its number
            stream.reconfigure(errors="backslashreplace")
    if rank > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    if num_ranks == 1:
        with _terminable():
            _call(main, if_lost, if_full)
        return
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_call)(main, if_lost, if_full)  # torchrun then shows the error of the rank that failed first


def hush_libraries() -> None:
    """Disable the progress bars of datasets and transformers if nobody watches; this imports both."""
    import datasets
    from transformers.utils import logging as transformers_logging

    if not is_watched():
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()


def choose_device(name: str) -> str | None:
    """Return the device with this name; under a launcher, each rank has its own GPU."""
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is not None and (name == "cuda" or name == "auto" and torch.cuda.is_available()):
        return f"cuda:{local_rank}"
    return None if name == "auto" else name


def launched_ranks() -> tuple[int, int]:
    """Return this process's rank and the number of processes that a launcher has started."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Connect the processes of a launcher, if there is one; training does this by itself."""
    if launched_ranks()[1] == 1:
        yield
        return
    from torch import distributed

    from cosent.distributed import PATIENCE

    distributed.init_process_group("gloo", timeout=PATIENCE)  # too little data is sent to need a faster backend
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _call(main: Callable[[], None], if_lost: str, if_full: str) -> None:
    rank, num_ranks = launched_ranks()
    try:
        main()
        _flush()
    except (UserError, UsageError) as error:
        _report(str(error))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except _Terminated:
        sys.stderr.write("terminated\n")
        sys.exit(_TERMINATED_STATUS)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except BrokenPipeError as error:
        if error.filename not in (None, _STDOUT) or num_ranks > 1:
            raise
        _drop_stdout()  # the reader has gone, as in `cosent check ... | head`
        sys.exit(_PIPE_STATUS)
    except Exception as error:
        if num_ranks > 1 and any(message in str(error) for message in _LOST):
            sys.exit(
                f"error on rank {rank}: another rank has ended, and this one cannot go on alone; the launcher says "
                f"below which. {if_lost}"
            )
        if not _report_failure(error, if_full):
            raise
        sys.exit(1)


def _report_failure(error: Exception, if_full: str) -> bool:
    """Print what the system refused; False if it has nothing to do with the error."""
    message = describe_failure(error, if_full)
    if message is None:
        return False
    _report(message)
    _drop_stdout()
    return True


def _report(message: str) -> None:
    """Print an error; ranks other than the first wait, as the first may report the same."""
    rank, _ = launched_ranks()
    if rank > 0:
        time.sleep(_GRACE)
    _leave_ranks()
    sys.stderr.write(as_flags(f"error on rank {rank}: {message}" if rank else f"error: {message}") + "\n")


def _flush() -> None:
    if sys.stdout is not None:
        with writing(_STDOUT):
            sys.stdout.flush()


def _drop_stdout() -> None:
    """Discard remaining output, which Python would otherwise fail to write at exit."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a command like SIGINT, except with several ranks, whose waits cannot be interrupted."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # handled or ignored elsewhere
        yield
        return
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker ends as it would without the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave_ranks() -> None:
    """Close gloo's connections, whose threads would otherwise abort the process at exit."""
    if launched_ranks()[1] > 1:
        from torch import distributed

        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()
