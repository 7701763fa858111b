"""Runs a script whose rank 1 is killed in the first attempt's eighth step, as by a machine that runs out of memory.

The launcher then ends the other rank, which ignores that here: it shall say what it notices, however long that takes.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer

_step = Trainer.training_step


def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
    """The trainer's own, or the end."""
    first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first_attempt and os.environ["RANK"] == "1" and self.state.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return _step(self, *args, **kwargs)


if __name__ == "__main__":
    Trainer.training_step = step
    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
