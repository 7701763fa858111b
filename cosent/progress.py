"""When to show progress bars."""

import sys


def is_watched() -> bool:
    """Whether somebody is looking: on a terminal or in a notebook, not into a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
