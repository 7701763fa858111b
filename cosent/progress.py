"""When to show progress bars."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_watched() -> bool:
    """Tell whether progress would be seen: in a terminal or a notebook, not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def no_bars_of_transformers() -> Iterator[None]:
    """Hide transformers' progress bars of reading and writing local weights, which takes no time worth watching."""
    from transformers.utils import logging

    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()
