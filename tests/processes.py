"""Processes for tests that need several, or one of their own: forked from a server that has done all imports before.

A process that begins with its imports takes ten seconds for them. Tests of starting itself have real processes.
"""

import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

from torch.distributed import TCPStore

ROOT = Path(__file__).parent.parent

# Nothing is called in the server: autograd and gloo do not work in forks of processes that have used them.
_IMPORTS = [
    "cosent.cli.testing",
    "cosent.cli.training_run",
    "cosent.inference.embeddings",
    "datasets",
    "matplotlib.pyplot",
    "sentence_transformers",
    "sklearn.metrics",
    "torch.distributed.run",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
]


@dataclass
class Done:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str
    output: bytes = b""


def forks() -> ForkServerContext:
    """What starts processes from the server, which is started when it is first asked for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


def run_forked(script: Path, *arguments: object, cwd: Path = ROOT, **environment: str) -> Done:
    """Run a script in a process of its own."""
    return _run(script, arguments, cwd, [environment])


def run_ranks(num_ranks: int, script: Path, *arguments: object, **environment: str) -> Done:
    """Run a script in several processes that find each other as those of torchrun do; one that fails ends all."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    sizes = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "TORCHELASTIC_RESTART_COUNT": "0"}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
    return _run(script, arguments, ROOT, [meeting | sizes | place | environment for place in places])


def _run(script: Path, arguments: Sequence[object], cwd: Path, environments: list[dict[str, str]]) -> Done:
    command = [str(script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as endings:
        streams = Path(folder) / "stdout", Path(folder) / "stderr"
        for path in streams:
            path.touch()
        processes = []
        for environment in environments:
            given = (command, str(cwd), {**os.environ, "OMP_NUM_THREADS": "1", **environment}, streams)
            processes.append(forks().Process(target=_begin, args=given))
            processes[-1].start()
            endings.callback(processes[-1].join)
            endings.callback(processes[-1].kill)
        running = {process.sentinel: process for process in processes}
        status = 0
        while running and not status:
            for sentinel in connection.wait(list(running)):
                process = running.pop(sentinel)
                process.join()
                status = status or process.exitcode
        endings.close()
        output, errors = (path.read_bytes() for path in streams)
    return Done(status, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"), output)


def _begin(command: list[str], cwd: str, environment: dict[str, str], streams: tuple[Path, Path]) -> None:
    """What a process does: it becomes the script's."""
    gc.freeze()  # what the server has made stays shared, and is not searched for garbage
    for number, path in enumerate(streams, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
