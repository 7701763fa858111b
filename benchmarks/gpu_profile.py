"""Where the time of a training step goes: kernels and busy time on the device, functions on the host."""

import cProfile
import pstats
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_bench import Bench, Figures
from gpu_speed import Training, stopwatch, train
from measuring import wait_for
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

TOP = 12  # kernels or functions that a profile lists
DEVICE_STEPS = 3
HOST_STEPS = 30
# the names of ranges that torch annotates begin so; only for versions whose events have no `is_user_annotation`
ANNOTATIONS = ("ProfilerStep#", "Optimizer.", "enumerate(DataLoader)", "Torch-Compiled Region", "## Call Compiled")


def profile_steps(
    bench: Bench, training: Training, profiler: AbstractContextManager[Any], num_steps: int, device: torch.device
) -> Figures:
    """Time some steps, then run a profiler over a few more, synchronising it with a device."""
    clock = replace(stopwatch(bench, training), steps=10, seconds=0.3)
    taken = []

    def profiled() -> Iterator[None]:
        wait_for(device)
        with profiler:  # which stops even if training fails
            start = time.perf_counter()
            for _ in range(num_steps):
                yield
            wait_for(device)
            taken.append(time.perf_counter() - start)

    train(bench, training, clock, profiled())
    return clock.figures | {"profiled_step_ms": taken[0] / num_steps * 1e3}


def measure_device(bench: Bench, training: Training) -> Figures:
    """Find the kernels that take most time, and the time that any kernel runs; on a CPU, operations."""
    on_cuda = bench.device.type == "cuda"
    profiler = profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU])
    figures = profile_steps(bench, training, profiler, DEVICE_STEPS, bench.device)
    events = list(profiler.events())
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    # annotated ranges span kernels and the gaps between them
    kernels = [event for event in events if event.device_type == kind and not is_annotation(event)]
    calls = Counter(kernel.name for kernel in kernels)
    taken: Counter[str] = Counter()  # microseconds
    for kernel in kernels:
        taken[kernel.name] += kernel.time_range.elapsed_us() if on_cuda else kernel.self_cpu_time_total
    busy_ms = covered((kernel.time_range.start, kernel.time_range.end) for kernel in kernels) / 1e3 / DEVICE_STEPS
    return figures | {
        "busy_ms": busy_ms,
        "busy_share": busy_ms / figures["step_ms"],
        "kernels_per_step": len(kernels) / DEVICE_STEPS,
        "graph_launches_per_step": sum("GraphLaunch" in event.name for event in events) / DEVICE_STEPS,
        "top": [[name, us / 1e3 / DEVICE_STEPS, calls[name] / DEVICE_STEPS] for name, us in taken.most_common(TOP)],
    }


def is_annotation(event: Any) -> bool:
    """Tell whether a profiler's event is a named range rather than a kernel or an operation."""
    marked = getattr(event, "is_user_annotation", None)
    return event.name.startswith(ANNOTATIONS) if marked is None else marked


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of a union of intervals: overlaps count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure_host(bench: Bench, training: Training) -> Figures:
    """Find the Python functions of the training thread that take most time of their own."""
    profiler = cProfile.Profile()
    # the host need not wait for the GPU, and the profile should not show it waiting
    figures = profile_steps(bench, training, profiler, HOST_STEPS, torch.device("cpu"))
    functions: dict[tuple[str, int, str], tuple] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    top = sorted(functions.items(), key=lambda item: -item[1][2])[:TOP]
    rows = [[place(*key), own / HOST_STEPS * 1e3, calls / HOST_STEPS] for key, (_, calls, own, *_) in top]
    return figures | {"top": rows}


def place(file: str, line: int, name: str) -> str:
    """Name a function and, unless it is built in, its file and line."""
    return name if file == "~" else f"{name} ({'/'.join(Path(file).parts[-2:])}:{line})"
