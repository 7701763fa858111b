"""Runs a benchmark whose processes are forks of it, instead of beginning with their imports."""

import multiprocessing
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    import measuring

    measuring.get_context = lambda method: multiprocessing.get_context("fork")
    runpy.run_path(sys.argv[0], run_name="__main__")
