"""When to show progress bars."""

import sys


def is_watched() -> bool:
    """Tell whether progress would be seen: in a terminal or a notebook, not in a log file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
