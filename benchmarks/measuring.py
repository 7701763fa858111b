"""What the benchmarks share: the machine in words, tables, times, peak memory.

Scripts of this folder are run as `python benchmarks/x.py` and import it as `from measuring import ...`.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
# Prints the most private memory, in bytes, that a process had until standard input ended. It is a process itself, as
# a thread would have to wait for calls that hold the interpreter's lock, which is where memory grows.
_SAMPLER = """
import re, select, sys
highest, done = 0, False
print("ready", flush=True)
while not done:
    done = bool(select.select([sys.stdin], [], [], 0.01)[0])
    with open(sys.argv[1]) as status:
        highest = max(highest, int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1]) * 1024)
print(highest)
"""


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def machine(device: torch.device | str) -> str:
    """Say in two lines what a benchmark runs on: the hardware, and the versions of the libraries."""
    device = torch.device(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    hardware = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if device.type != "cpu":
        hardware += f"; {torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type}"
    packages = ("torch", "transformers", "sentence-transformers", "cosent")
    versions = [f"{package} {_version(package)}" for package in packages]
    return f"{hardware}\nPython {platform.python_version()}, {', '.join(versions)}"


def _version(package: str) -> str:
    """The version of an installed package; a lent machine runs the checkout without installing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An aligned Markdown table; the first column is aligned to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in [header, rule, *lines[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def wait_for(device: torch.device | str) -> None:
    """Wait until an accelerator has done what was asked of it."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()


def in_turns(
    functions: Sequence[Callable[[], object]], repeats: int, device: torch.device | str = "cpu"
) -> list[list[float]]:
    """Time functions A, B as A B A B ..., so that what else the machine does meanwhile falls on all of them.

    Args:
        functions: what to time; nothing is warmed up here.
        repeats: calls of each.
        device: waited for before and after each call.

    Returns:
        Seconds of each call, a list for each function.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, seconds, strict=True):
            wait_for(device)
            start = time.perf_counter()
            function()
            wait_for(device)
            taken.append(time.perf_counter() - start)
    return seconds


def matmul_rate(device: torch.device | str, dtype: torch.dtype, *, repeats: int = 20) -> float:
    """FLOP/s of torch's product of two matrices, large enough for the device to be busy, the best of several."""
    m, k, n = (2048, 1024, 1024) if torch.device(device).type == "cpu" else (8192, 8192, 8192)
    a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    [seconds] = in_turns([lambda: a @ b], repeats, device)
    return 2 * m * k * n / min(seconds)


class PeakMemory:
    """Measures, as a context manager, by how much memory grows at its peak over what it is at the start.

    On CUDA it is what torch's tensors take there. Elsewhere it is the resident memory of the process, by the kernel's
    own peak, which misses nothing; it counts pages of memory-mapped files, which the system drops when it needs room.
    `private` leaves those out: then it is sampled a hundred times a second, and shorter peaks may be missed.

    What the process has freed but not yet given back is in the memory at the start: use a fresh process, or
    `give_back_memory`.

    Args:
        private: leave out pages of files, where the system tells them apart (Linux).

    Attributes:
        bytes: the growth, after the context has ended.
    """

    def __init__(self, *, private: bool = False):
        self.private = private and _status("RssAnon") is not None
        self.bytes = 0

    def __enter__(self) -> "PeakMemory":
        if self.private:
            command = [sys.executable, "-I", "-S", "-c", _SAMPLER, f"/proc/{os.getpid()}/status"]
            self._sampler = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._sampler.stdout.readline()  # waits until it is ready
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")  # resets VmHWM; getrusage's ru_maxrss cannot be reset
        self._cuda_start = torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        self._start = _status("RssAnon") if self.private else psutil.Process().memory_info().rss
        return self

    def __exit__(self, *raised: object) -> None:
        highest = int(self._sampler.communicate()[0]) if self.private else _peak_resident()
        self.bytes = max(0, highest - self._start)
        if torch.cuda.is_initialized() and torch.cuda.max_memory_allocated():
            self.bytes = torch.cuda.max_memory_allocated() - self._cuda_start


def in_own_process(function: Callable[..., Any], *args: Any, private: bool = False) -> tuple[Any, int]:
    """Call a function in a fresh process, so that neither its memory nor its caches meet those of another.

    Args:
        function: of a module, so that it can be pickled.
        args: its arguments, likewise.
        private: see `PeakMemory`.

    Returns:
        Its result, and the growth of the process's peak memory over what it was just before the call, in bytes.
    """
    # a forked child would begin with its parent's memory, peak included
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, function, args, private).result()


def _measured(function: Callable[..., Any], args: tuple[Any, ...], private: bool) -> tuple[Any, int]:
    with PeakMemory(private=private) as peak:
        result = function(*args)
    return result, peak.bytes


def give_back_memory() -> None:
    """Return freed memory to the system, so that the next measurement does not find it there for nothing."""
    import ctypes
    import gc

    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _peak_resident() -> int:
    """The highest resident bytes of this process, since the start or the last reset."""
    highest = _status("VmHWM")
    if highest is not None:
        return highest
    import resource  # not on Windows, which psutil serves

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _status(name: str) -> int | None:
    """Bytes of a line of Linux's status of this process."""
    if not _STATUS.exists():
        return None
    found = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None
