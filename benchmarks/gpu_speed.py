"""The speed of training steps, timed once they are steady, and of encoding; for cosent and sentence-transformers."""

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from encode_throughput import seconds as seconds_of_encoding
from gpu_bench import MAX_LENGTH, Bench, Figures, Subject
from measuring import wait_for
from shapes import working_parameters
from torch._dynamo.utils import counters  # torch has no public name for them
from train_throughput import Job, common_arguments
from transformers import PrinterCallback, TrainerCallback

from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, load_data

ENDLESS = 100_000  # steps: `Watch` ends training
HALT = 0.03  # seconds that recording a graph adds to a step, at least
MAX_RESTARTS = 10


@dataclass
class Stopwatch:
    """Waits until steps are steady, then times them: an iterator that is advanced before the first and after each step.

    It synchronises with the device after each untimed step, but only before the first and after the last timed step.
    A step that takes the host much longer than usual has recorded a graph or compiled code; timing then restarts, since
    the number of such steps among the timed ones would be a matter of chance.
    """

    device: torch.device
    batch: int  # pairs
    untimed: int  # maximum number of steps before timing starts, even if they are not steady
    untimed_seconds: float  # minimum duration of these steps, unless their number reaches its maximum
    steps: int  # minimum number of timed steps
    seconds: float  # minimum duration of the timed steps
    max_seconds: float  # time limit for timing, restarts included
    figures: Figures = field(default_factory=dict)  # the results, once the iterator is exhausted

    def __iter__(self) -> Iterator[None]:
        taken: list[float] = []
        last = time.perf_counter()
        while len(taken) < self.untimed and not (sum(taken) >= self.untimed_seconds and is_steady(taken)):
            yield
            wait_for(self.device)
            taken.append(time.perf_counter() - last)
            last += taken[-1]
        self.figures |= {"untimed_steps": len(taken), "untimed_seconds": sum(taken)}
        yield from self._timed(last, 3 * statistics.median(taken[-5:]) + HALT)

    def _timed(self, start: float, long_step: float) -> Iterator[None]:
        deadline = start + self.max_seconds
        times, restarts = [start], 0  # the host's clock at the start and after each step
        while len(times) <= self.steps or times[-1] - times[0] < self.seconds:
            yield
            times.append(time.perf_counter())
            if times[-1] >= deadline:
                break
            if times[-1] - times[-2] > long_step and restarts < MAX_RESTARTS:
                wait_for(self.device)
                times, restarts = [time.perf_counter()], restarts + 1
        wait_for(self.device)
        seconds = time.perf_counter() - times[0]
        host_ms = np.diff(times) * 1e3
        self.figures |= {
            "pairs_per_second": len(host_ms) * self.batch / seconds,
            "step_ms": seconds / len(host_ms) * 1e3,
            "slowest_host_step_ms": float(host_ms.max()),
            "host_step_ms": np.round(host_ms, 3).tolist(),
            "timed_steps": len(host_ms),
            "timed_seconds": seconds,
            "restarts": restarts,
        }


def is_steady(taken: Sequence[float]) -> bool:
    """Tell whether the last five steps are even, and as fast as the five before them."""
    if len(taken) < 10:
        return False
    last = statistics.median(taken[-5:])
    return abs(last / statistics.median(taken[-10:-5]) - 1) < 0.05 and max(taken[-5:]) < 1.5 * last


class Watch(TrainerCallback):
    """Advances an iterator before the first and after each step, and ends training when the iterator ends."""

    def __init__(self, steps: Iterator[None]):
        self.steps = steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the iterator."""
        next(self.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the iterator."""
        control.should_training_stop = next(self.steps, "ended") == "ended"


@dataclass(frozen=True)
class Training:
    """One run of cosent's trainer."""

    subject: Subject
    graphs: str
    batch: int
    compiled: bool = False
    micro_batch_tokens: int | None = None


def train(bench: Bench, training: Training, *watchers: Iterable[None]) -> Figures:
    """Train until the watchers, one after the other, have seen enough steps; return the work of a step."""
    model = bench.model(training.subject, torch.float32, training.graphs)
    data = str(training.subject.training_file)
    job = Job(
        model.name_or_path, data, training.batch, MAX_LENGTH, bench.args.precision, bench.device.type,
        num_steps=ENDLESS, compiled=training.compiled,
    )  # fmt: skip
    options = common_arguments(job, str(bench.folder / "trainer")) | {
        "micro_batch_tokens": training.micro_batch_tokens,
        "torch_compile_backend": bench.args.compile_backend if training.compiled else None,
        "logging_steps": ENDLESS,  # logging synchronises with the device, and would make single steps seem slow
    }
    dataset = load_data(data, model, data_format="pairs")
    trainer = CosentTrainer(
        model, CosentTrainingArguments(**options), CoSENTLoss(), train_dataset=dataset,
        callbacks=[Watch(itertools.chain(*watchers))],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lengths = np.concatenate(dataset.tokens.with_format("numpy")["lengths"][:])
    return {
        "tokens_per_step": 2 * training.batch * float(lengths.mean()),
        "working_parameters": working_parameters(model.backbone),
    }


def measure_training(bench: Bench, training: Training) -> Figures:
    """Time steps of cosent's trainer, and count what torch.compile compiles, which must not be nothing."""
    clock = stopwatch(bench, training)
    counters.clear()
    try:
        work = train(bench, training, clock)
    finally:
        torch.compiler.reset()
    flop = 6 * work["working_parameters"] * work["tokens_per_step"]
    figures = clock.figures | work | {"share_of_peak": flop / (clock.figures["step_ms"] / 1e3) / bench.rate}
    if training.compiled:
        figures["compiled_graphs"] = counters["stats"]["unique_graphs"]
        figures["graph_breaks"] = sum(counters["graph_break"].values())
        if not figures["compiled_graphs"]:
            raise RuntimeError("torch.compile was requested, but compiled nothing")
    return figures


def stopwatch(bench: Bench, training: Training) -> Stopwatch:
    """Choose how to time a run."""
    args, batch = bench.args, training.batch
    if batch == args.large_batch:
        return Stopwatch(bench.device, batch, untimed=3, untimed_seconds=0, steps=3, seconds=0, max_seconds=20)
    untimed, untimed_seconds = args.untimed, args.step_seconds
    # a graph is recorded the third time that a batch of its size comes; without graphs, steps are steady much earlier
    if training.graphs == "off":
        untimed, untimed_seconds = min(untimed, 24 if training.subject is bench.large else 40), 0.0
    max_seconds = 60 if training.compiled else 30
    return Stopwatch(bench.device, batch, untimed, untimed_seconds, args.steps, args.step_seconds, max_seconds)


def measure_peer_step(bench: Bench, subject: Subject) -> Figures:
    """Time steps of sentence-transformers without its trainer: two padded forwards, its loss, clipping, fused AdamW."""
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss as PeerLoss

    model = bench.peer(subject, torch.float32).train()
    loss = PeerLoss(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 2e-5, fused=True)
    batches = itertools.cycle(peer_batches(bench, subject, model))
    clock = stopwatch(bench, Training(subject, "off", bench.args.batch))
    for _, (features, labels) in zip(clock, batches, strict=False):
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.dtype == torch.bfloat16):
            value = loss([dict(column) for column in features], labels)  # copies, as the model adds keys
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return clock.figures


def peer_batches(bench: Bench, subject: Subject, model: Any) -> list[tuple[list[dict[str, Any]], torch.Tensor]]:
    """Up to 64 batches, padded by sentence-transformers and copied to the device in advance."""
    from sentence_transformers.util import batch_to_device

    pairs, size = subject.pairs, bench.args.batch
    batches = []
    for start in range(0, min(len(pairs), 64 * size) - size + 1, size):
        first, second, labels = zip(*pairs[start : start + size], strict=True)
        features = [batch_to_device(model.preprocess([*texts]), bench.device) for texts in (first, second)]
        batches.append((features, torch.tensor(labels, device=bench.device)))
    return batches


def measure_encoding(bench: Bench, subject: Subject, graphs: str) -> Figures:
    """Time `SentenceBert.encode`, its weights in the precision asked for."""
    model = bench.model(subject, bench.dtype, graphs)
    # a size that occurs once in each call is recorded in the third call, so the fourth call records nothing
    return encode(bench, subject, model, (64, 512), num_untimed=1 if graphs == "off" else 2)


def measure_peer_encoding(bench: Bench, subject: Subject) -> Figures:
    """Time `SentenceTransformer.encode`, its weights in the same precision."""
    return encode(bench, subject, bench.peer(subject, bench.dtype), (256, 1024), num_untimed=1)


def encode(bench: Bench, subject: Subject, model: Any, batch_sizes: Sequence[int], *, num_untimed: int) -> Figures:
    """Encode the distinct texts with each batch size; the best of two calls after the untimed ones counts."""
    texts = subject.texts[: bench.args.texts]
    taken = [
        [seconds_of_encoding(model, texts, size)[0] for _ in range(num_untimed + 2)][num_untimed:]
        for size in batch_sizes
    ]
    speeds = [len(texts) / min(seconds) for seconds in taken]
    return {
        "num_texts": len(texts),
        "batch_sizes": batch_sizes,
        "seconds": taken,
        "texts_per_second": speeds,
        "best_texts_per_second": max(speeds),
    }
