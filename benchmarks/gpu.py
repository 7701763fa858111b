"""Training, encoding, large batches and where the time goes, on a GPU: in one process, the most important rows first.

    DATA=folder bash benchmarks/gpu.sh [OUT]
    python benchmarks/gpu.py --data folder --out output/gpu

The folder holds `lcqmc/dev.tsv` and `stsb_en/train.tsv` (text, text, label, tab-separated, no header); sample data
stands in for what is missing. Encoders have random weights and a vocabulary learnt from their texts, so nothing has to
be downloaded or set up. `gpu.md` and `gpu.json` are written after every measurement: a run that is killed leaves what
it has. A measurement that fails is a row that says so, one that --seconds leaves no time for is "not measured: time".
"""

import argparse
import cProfile
import itertools
import json
import logging
import pstats
import statistics
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
import numpy as np
import psutil
import torch
from encode_throughput import seconds as seconds_of_encoding
from measuring import default_device, give_back_memory, machine, matmul_rate, table, wait_for
from shapes import SHAPES, make_backbone, working_parameters
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from train_throughput import DTYPES, Job, common_arguments, quiet, read_pairs
from transformers import PrinterCallback, TrainerCallback

from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, SentenceBert, load_data

ROOT = Path(__file__).parent.parent
MAX_LENGTH = 128
ENDLESS = 100_000  # steps: the callback ends training
TOP = 12  # kernels and functions that a profile names
HALT = 0.03  # seconds by which a step is longer that records a graph
MAX_RESTARTS = 10
PEER = "sentence-transformers, raw step"
PEER_ENCODING = "sentence-transformers"
NOT_REACHED = "not measured: the run has not come this far"
NO_TIME = "not measured: time"

Figures = dict[str, Any]


# ---------------------------------------------------------------- what is measured on


class Subject(NamedTuple):
    """An encoder and the texts that it reads."""

    shape: str
    corpus: str


LARGE = Subject("macbert-large", "lcqmc/dev.tsv")
SMALL = Subject("minilm-l6-random", "stsb_en/train.tsv")
BASE = Subject("bert-base", "stsb_en/train.tsv")
SAMPLES = {"lcqmc/dev.tsv": "data/zh/train.txt", "stsb_en/train.tsv": "data/train.txt"}


class Corpus(NamedTuple):
    """Pairs, the name of the file that they are of, and a file that repeats them for training."""

    name: str
    pairs: list[tuple[str, str, float]]
    repeats: int
    training_file: Path

    @property
    def texts(self) -> list[str]:
        """The distinct texts."""
        return list(dict.fromkeys(text for pair in self.pairs for text in pair[:2]))


class Bench:
    """What the measurements share: the options, the device, the texts, and encoders, made when first asked for."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args = args
        self.folder = folder
        self.device = torch.device(args.device)
        self.dtype = DTYPES[args.precision]
        self.rate = matmul_rate(self.device, self.dtype)
        self.corpora = {name: self._read(name) for name in SAMPLES}
        self._encoders: dict[Subject, str] = {}

    def _read(self, name: str) -> Corpus:
        """Read a file or what stands in for it, and repeat it until an epoch has six of the large batches."""
        path, shown = Path(self.args.data) / name, name
        if not self.args.data or not path.exists():
            path, shown = ROOT / SAMPLES[name], f"sample {SAMPLES[name]}"
        pairs = read_pairs(str(path), 10**9)
        repeats = -(-6 * max(self.args.large_batch, self.args.batch) // len(pairs))
        training_file = self.folder / f"pairs-{name.replace('/', '-')}"
        lines = ["\t".join(map(str, pair)) + "\n" for pair in pairs]
        training_file.write_text("".join(lines * repeats), encoding="utf-8")
        return Corpus(shown, pairs, repeats, training_file)

    def label(self, subject: Subject) -> str:
        """The first cell of its rows."""
        stand_in = f"{self.args.shape} for " if self.args.shape else ""
        return f"{stand_in}{subject.shape}, {self.corpora[subject.corpus].name}"

    def encoder(self, subject: Subject) -> str:
        """The folder of the encoder."""
        if subject not in self._encoders:
            folder = self.folder / f"encoder-{len(self._encoders)}"
            texts = self.corpora[subject.corpus].texts
            self._encoders[subject] = make_backbone(self.args.shape or subject.shape, texts, folder, bundled=False)
        return self._encoders[subject]

    def model(self, subject: Subject, graphs: str, dtype: torch.dtype) -> SentenceBert:
        """The encoder as cosent loads it; "auto" is its default for graphs, and is left out."""
        options = {} if graphs == "auto" else {"cuda_graphs": graphs}
        return SentenceBert(self.encoder(subject), max_length=MAX_LENGTH, dtype=dtype, device=self.device, **options)


# ---------------------------------------------------------------- steps: when they are steady, how long they take


@dataclass(frozen=True)
class Plan:
    """When steps are timed, and for how long.

    Attributes:
        untimed: steps before the timed ones at most, steady or not.
        untimed_seconds: for which steps are not timed at least, unless that many have been.
        steps: timed at least.
        seconds: for which steps are timed at least.
        max_seconds: after which nothing more is timed.
    """

    untimed: int
    untimed_seconds: float
    steps: int
    seconds: float
    max_seconds: float = 30.0


class Stopwatch:
    """Finds out when steps have become steady, then times them.

    It waits for the device after each untimed step; of the timed ones, only before the first and after the last. A step
    that takes the host so long that it must have recorded a graph or compiled something lets the timing begin afresh,
    since how many of these meet the timed steps is chance.

    Attributes:
        untimed: seconds of each untimed step.
        ends: the host's clock at the end of each timed step, which the device may reach later.
        seconds: of all timed steps, the device's work included.
        restarts: how often timing began afresh.
    """

    def __init__(self, device: torch.device, plan: Plan):
        self.device = device
        self.plan = plan
        self.untimed: list[float] = []
        self.ends: list[float] = []
        self.seconds = 0.0
        self.restarts = 0
        self._begin: float | None = None
        self._deadline = 0.0
        self._last = time.perf_counter()

    def tick(self) -> bool:
        """Take note that a step has ended; whether it was the last."""
        if self._begin is None:
            wait_for(self.device)
        now = time.perf_counter()
        taken, self._last = now - self._last, now
        if self._begin is None:
            self._tick_untimed(taken)
            return False
        return self._tick_timed(taken)

    def _tick_untimed(self, taken: float) -> None:
        self.untimed.append(taken)
        is_warm = sum(self.untimed) >= self.plan.untimed_seconds and is_steady(self.untimed)
        if is_warm or len(self.untimed) >= self.plan.untimed:
            self._begin = self._last
            self._deadline = self._begin + self.plan.max_seconds

    def _tick_timed(self, taken: float) -> bool:
        assert self._begin is not None  # it is the timed steps' turn
        self.ends.append(self._last)
        is_late = self._last >= self._deadline
        if not is_late and self.restarts < MAX_RESTARTS and taken > 3 * statistics.median(self.untimed[-5:]) + HALT:
            wait_for(self.device)
            self.restarts += 1
            self.ends = []
            self._begin = self._last = time.perf_counter()
            return False
        is_enough = len(self.ends) >= self.plan.steps and self._last - self._begin >= self.plan.seconds
        if not is_enough and not is_late:
            return False
        wait_for(self.device)
        self.seconds = time.perf_counter() - self._begin
        return True

    def figures(self, batch: int) -> Figures:
        """What came of it."""
        assert self._begin is not None
        host_ms = np.diff([self._begin, *self.ends]) * 1e3
        return {
            "pairs_per_second": len(self.ends) * batch / self.seconds,
            "step_ms": self.seconds / len(self.ends) * 1e3,
            "slowest_host_step_ms": float(host_ms.max()),
            "host_step_ms": np.round(host_ms, 3).tolist(),
            "timed_steps": len(self.ends),
            "timed_seconds": self.seconds,
            "untimed_steps": len(self.untimed),
            "untimed_seconds": sum(self.untimed),
            "restarts": self.restarts,
        }


def is_steady(taken: Sequence[float]) -> bool:
    """Whether the last five steps took as long as the five before them, and none of them much longer."""
    if len(taken) < 10:
        return False
    last = statistics.median(taken[-5:])
    return abs(last / statistics.median(taken[-10:-5]) - 1) < 0.05 and max(taken[-5:]) < 1.5 * last


class Ticking(Protocol):
    """What is told that a step has ended, and says whether it was the last that it wants to see."""

    def tick(self) -> bool:
        """Whether that was the last step."""


class Watch(TrainerCallback):
    """Hands the ends of a trainer's steps to one after the other; then training ends."""

    def __init__(self, *watchers: Ticking):
        self.watchers = list(watchers)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step has ended."""
        if self.watchers[0].tick():
            self.watchers.pop(0)
        control.should_training_stop = not self.watchers


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Training:
    """One run of the trainer."""

    subject: Subject
    graphs: str
    batch: int
    compiled: bool = False
    micro_batch_tokens: int | None = None

    @property
    def how(self) -> str:
        """The second cell of its row."""
        return f"cosent, graphs {self.graphs}{', compiled' if self.compiled else ''}"


def train(bench: Bench, training: Training, *watchers: Ticking) -> Figures:
    """Train with CosentTrainer until the watchers have seen enough; what a step has to do."""
    model = bench.model(training.subject, training.graphs, torch.float32)
    data = str(bench.corpora[training.subject.corpus].training_file)
    job = Job(
        model.name_or_path, data, training.batch, MAX_LENGTH, bench.args.precision, bench.device.type,
        num_steps=ENDLESS, compiled=training.compiled,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        options = common_arguments(job, folder) | {
            "micro_batch_tokens": training.micro_batch_tokens,
            # to log is to wait for the device, and then a step would seem to take as long as all that it waits for
            "logging_steps": ENDLESS,
        }
        if training.compiled:
            options["torch_compile_backend"] = bench.args.compile_backend
        args = CosentTrainingArguments(**options)
        dataset = load_data(data, model, data_format="pairs")
        trainer = CosentTrainer(model, args, CoSENTLoss(), train_dataset=dataset, callbacks=[Watch(*watchers)])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    lengths = np.concatenate(dataset.tokens.with_format("numpy")["lengths"][:])
    return {
        "tokens_per_step": 2 * training.batch * float(lengths.mean()),
        "working_parameters": working_parameters(model.backbone),
    }


def measure_training(bench: Bench, training: Training) -> Figures:
    """Steps of the trainer."""
    clock = Stopwatch(bench.device, plan_of(bench, training))
    with compiler() if training.compiled else nullcontext({}) as compiled:
        work = train(bench, training, clock)
    figures = clock.figures(training.batch) | work | compiled
    flop = 6 * work["working_parameters"] * work["tokens_per_step"]
    return figures | {"share_of_peak": flop / (figures["step_ms"] / 1e3) / bench.rate}


def plan_of(bench: Bench, training: Training) -> Plan:
    """How to time a training: sizes of batches that are recorded, or compiled, come up one by one."""
    args = bench.args
    if training.batch == args.large_batch:
        return Plan(untimed=3, untimed_seconds=0, steps=3, seconds=0, max_seconds=20)
    if training.graphs == "off":
        untimed = 24 if training.subject == LARGE else 40
        return Plan(min(untimed, args.untimed), 0, args.steps, args.step_seconds)
    return Plan(args.untimed, args.step_seconds, args.steps, args.step_seconds, 60 if training.compiled else 30)


@contextmanager
def compiler() -> Iterator[Figures]:
    """Count what torch.compile compiles, insist that it compiles something, and let it forget that at the end."""
    from torch._dynamo.utils import counters  # torch has no public name for them

    figures: Figures = {}
    counters.clear()
    try:
        yield figures
        figures["compiled_graphs"] = counters["stats"]["unique_graphs"]
        figures["graph_breaks"] = sum(counters["graph_break"].values())
        if not figures["compiled_graphs"]:
            raise RuntimeError("torch.compile was asked for, and nothing was compiled")
    finally:
        torch.compiler.reset()


def measure_their_step(bench: Bench, subject: Subject) -> Figures:
    """Steps of sentence-transformers without its trainer: two padded forwards, its loss, clipping, fused AdamW."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss as TheirLoss

    model = SentenceTransformer(bench.encoder(subject), device=str(bench.device)).train()
    model.max_seq_length = MAX_LENGTH
    loss = TheirLoss(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, 2e-5, fused=True)
    clock = Stopwatch(bench.device, plan_of(bench, Training(subject, "off", bench.args.batch)))
    for features, labels in itertools.cycle(their_batches(bench, subject, model)):
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.dtype == torch.bfloat16):
            value = loss([dict(column) for column in features], labels)  # the model adds to what it is given
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if clock.tick():
            break
    return clock.figures(bench.args.batch)


def their_batches(bench: Bench, subject: Subject, model: Any) -> list[tuple[list[dict[str, Any]], torch.Tensor]]:
    """Batches as sentence-transformers pads them, on the device already: its steps need not wait for them."""
    pairs, size = bench.corpora[subject.corpus].pairs, bench.args.batch
    batches = []
    for start in range(0, min(len(pairs), 64 * size) - size + 1, size):
        batch = pairs[start : start + size]
        columns = [model.preprocess([pair[column] for pair in batch]) for column in (0, 1)]
        features = [
            {name: x.to(bench.device) if torch.is_tensor(x) else x for name, x in column.items()} for column in columns
        ]
        batches.append((features, torch.tensor([label for *_, label in batch], device=bench.device)))
    return batches


# ---------------------------------------------------------------- encoding


def measure_encoding(bench: Bench, subject: Subject, graphs: str) -> Figures:
    """`SentenceBert.encode`, its weights in the precision asked for."""
    return encode(bench, subject, bench.model(subject, graphs, bench.dtype), (64, 512))


def measure_their_encoding(bench: Bench, subject: Subject) -> Figures:
    """`SentenceTransformer.encode`, likewise."""
    from sentence_transformers import SentenceTransformer

    weights = {"dtype": bench.dtype}
    model = SentenceTransformer(bench.encoder(subject), model_kwargs=weights, device=str(bench.device))
    model.max_seq_length = MAX_LENGTH
    return encode(bench, subject, model, (256, 1024))


def encode(bench: Bench, subject: Subject, model: Any, batch_sizes: Sequence[int]) -> Figures:
    """All distinct texts, at each batch size once to warm up and then twice; the best counts."""
    texts = bench.corpora[subject.corpus].texts[: bench.args.texts]
    taken = {}
    for size in batch_sizes:
        seconds_of_encoding(model, texts, size)
        taken[size] = [seconds_of_encoding(model, texts, size)[0] for _ in range(2)]
    speeds = [len(texts) / min(seconds) for seconds in taken.values()]
    return {
        "num_texts": len(texts),
        "batch_sizes": list(taken),
        "seconds": list(taken.values()),
        "texts_per_second": speeds,
        "best_texts_per_second": max(speeds),
    }


# ---------------------------------------------------------------- profiles


class DeviceProfile:
    """What the device does in a few steps, as torch's profiler sees it; on a CPU, its operations."""

    def __init__(self, device: torch.device, steps: int = 3):
        self.device = device
        self.steps = steps
        activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        self._profiler = profile(activities=[activity])
        self._seen = -1
        self._begin = self._seconds = 0.0

    def tick(self) -> bool:
        """Begin at the first call; end so many steps later."""
        self._seen += 1
        if not self._seen:
            wait_for(self.device)
            self._profiler.start()
            self._begin = time.perf_counter()
        if self._seen < self.steps:
            return False
        wait_for(self.device)
        self._seconds = time.perf_counter() - self._begin
        self._profiler.stop()
        return True

    def figures(self) -> Figures:
        """What ran, for how long, and the kernels that take most of it."""
        events = list(self._profiler.events())
        wanted = DeviceType.CUDA if self.device.type == "cuda" else DeviceType.CPU
        # ranges that were named by somebody span kernels and the gaps between them
        kernels = [e for e in events if e.device_type == wanted and not e.is_user_annotation]
        taken: Counter[str] = Counter()
        calls = Counter(kernel.name for kernel in kernels)
        for kernel in kernels:
            own = kernel.time_range.elapsed_us() if self.device.type == "cuda" else kernel.self_cpu_time_total
            taken[kernel.name] += own / 1e3 / self.steps
        busy = covered((kernel.time_range.start, kernel.time_range.end) for kernel in kernels)
        return {
            "profiled_step_ms": self._seconds / self.steps * 1e3,
            "busy_ms": busy / 1e3 / self.steps,
            "kernels_per_step": len(kernels) / self.steps,
            "graph_launches_per_step": sum("GraphLaunch" in event.name for event in events) / self.steps,
            "top": [[name, ms, calls[name] / self.steps] for name, ms in taken.most_common(TOP)],
        }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of a union of intervals: what overlaps counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class HostProfile:
    """What the thread that trains does in some steps, as cProfile sees it."""

    def __init__(self, steps: int = 30):
        self.steps = steps
        self._profiler = cProfile.Profile()
        self._seen = -1
        self._begin = self._seconds = 0.0

    def tick(self) -> bool:
        """Begin at the first call; end so many steps later."""
        self._seen += 1
        if self._seen == self.steps:
            self._profiler.disable()
            self._seconds = time.perf_counter() - self._begin
            return True
        if not self._seen:
            self._begin = time.perf_counter()
            self._profiler.enable()
        return False

    def figures(self) -> Figures:
        """The functions that take most time of their own."""
        functions: dict[tuple[str, int, str], tuple] = pstats.Stats(self._profiler).stats  # type: ignore[attr-defined]
        ordered = sorted(functions.items(), key=lambda item: -item[1][2])[:TOP]
        return {
            "profiled_step_ms": self._seconds / self.steps * 1e3,
            "top": [[place(*key), own / self.steps * 1e3, calls / self.steps] for key, (_, calls, own, *_) in ordered],
        }


def place(file: str, line: int, name: str) -> str:
    """A function in short: its name, and where it stands unless it is built in."""
    return name if file == "~" else f"{name} ({'/'.join(Path(file).parts[-2:])}:{line})"


def measure_device(bench: Bench, training: Training) -> Figures:
    """Time some steps as they are, then look into a few more."""
    clock = Stopwatch(bench.device, replace(plan_of(bench, training), steps=10, seconds=0.3))
    watcher = DeviceProfile(bench.device)
    train(bench, training, clock, watcher)
    figures = clock.figures(training.batch) | watcher.figures()
    return figures | {"busy_share": figures["busy_ms"] / figures["step_ms"]}


def measure_host(bench: Bench, training: Training) -> Figures:
    """Time some steps as they are, then look at what the host does in some more."""
    clock = Stopwatch(bench.device, replace(plan_of(bench, training), steps=10, seconds=0.3))
    watcher = HostProfile()
    train(bench, training, clock, watcher)
    return clock.figures(training.batch) | watcher.figures()


# ---------------------------------------------------------------- the rows


@dataclass(frozen=True)
class Measurement:
    """A row to come: its table and first cells, how to measure it, and how many seconds that takes on an H200."""

    table: str
    name: tuple[str, str]
    measure: Callable[[], Figures]
    about: float


def measurements(bench: Bench) -> list[Measurement]:
    """All of them, the most important first."""
    args = bench.args
    graphs, *others = args.graphs
    piece = args.micro_batch_tokens

    def training(subject: Subject, graphs: str, about: float, *, compiled: bool = False) -> Measurement:
        run = Training(subject, graphs, args.batch, compiled)
        return Measurement("Training", (bench.label(subject), run.how), partial(measure_training, bench, run), about)

    def their_step(subject: Subject, about: float) -> Measurement:
        name = bench.label(subject), PEER
        return Measurement("Training", name, partial(measure_their_step, bench, subject), about)

    def encoding(subject: Subject, graphs: str, about: float) -> Measurement:
        name = bench.label(subject), f"cosent, graphs {graphs}"
        return Measurement("Encoding", name, partial(measure_encoding, bench, subject, graphs), about)

    def their_encoding(subject: Subject, about: float) -> Measurement:
        name = bench.label(subject), PEER_ENCODING
        return Measurement("Encoding", name, partial(measure_their_encoding, bench, subject), about)

    def large_batch(subject: Subject, pieces: bool, about: float) -> Measurement:
        run = Training(subject, graphs, args.large_batch, micro_batch_tokens=piece if pieces else None)
        how = f"in pieces of {piece:,} tokens" if pieces else "at once"
        return Measurement("Large batches", (bench.label(subject), how), partial(measure_training, bench, run), about)

    def profiled(table: str, subject: Subject, measure: Callable[..., Figures], about: float) -> Measurement:
        run = Training(subject, graphs, args.batch)
        return Measurement(table, (bench.label(subject), run.how), partial(measure, bench, run), about)

    return [
        training(LARGE, graphs, 18),  # and makes the encoder
        training(SMALL, graphs, 10),
        their_step(LARGE, 12),
        their_step(SMALL, 8),
        encoding(LARGE, graphs, 12),
        their_encoding(LARGE, 18),
        profiled("Profile of the device", LARGE, measure_device, 10),
        profiled("Profile of the host", SMALL, measure_host, 8),
        *(training(LARGE, other, 18) for other in others),
        *(training(SMALL, other, 10) for other in others),
        large_batch(LARGE, True, 12),
        large_batch(LARGE, False, 12),
        training(BASE, graphs, 14),
        training(SMALL, graphs, 40, compiled=True),
        training(LARGE, graphs, 75, compiled=True),
        *(encoding(LARGE, other, 12) for other in others),
        encoding(SMALL, graphs, 6),
        their_encoding(SMALL, 6),
        *(encoding(SMALL, other, 6) for other in others),
        large_batch(BASE, True, 8),
        large_batch(BASE, False, 8),
    ]


@dataclass
class Row:
    """A row of a table, as far as it is known."""

    table: str
    name: tuple[str, str]
    status: str = NOT_REACHED  # "measured", or why not
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    traceback: str = ""
    warnings: list[str] = field(default_factory=list)  # cosent's: graphs that it could not record, for example


def measure_all(wanted: Sequence[Measurement], page: "Page", is_time_for: Callable[[float], bool]) -> None:
    """Measure one after the other, and write the page after each.

    Args:
        wanted: what to measure.
        page: takes the rows, in this order.
        is_time_for: whether something that takes so many seconds may begin.
    """
    page.rows = [Row(measurement.table, measurement.name) for measurement in wanted]
    page.write()
    for row, measurement in zip(page.rows, wanted, strict=True):
        if is_time_for(measurement.about):
            fill(row, measurement, page.device)
        else:
            row.status = NO_TIME
        print(f"{row.table}: {', '.join(row.name)}: {row.status}, {row.seconds:.1f} s", flush=True)
        page.write()


def fill(row: Row, measurement: Measurement, device: torch.device) -> None:
    """Measure a row; what goes wrong is written into it, and does not keep the next from its turn."""
    start = time.perf_counter()
    try:
        # within, as a GPU on which something has gone wrong for good refuses this, too
        give_back_all(device)
        with warnings_of("cosent", row.warnings):
            row.figures = measurement.measure()
        row.figures["peak_bytes"] = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        row.status = "measured"
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        row.status = f"FAILED: {type(error).__name__}: {first}"
        row.traceback = traceback.format_exc()
        print(row.traceback, flush=True)
    row.seconds = time.perf_counter() - start


@contextmanager
def warnings_of(package: str, into: list[str]) -> Iterator[None]:
    """Keep what a package warns of."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: into.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(package)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def give_back_all(device: torch.device) -> None:
    """Free what the measurement before has left, on the host and on the device, and forget its peak."""
    give_back_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# ---------------------------------------------------------------- the page


class Beside(NamedTuple):
    """A column that sets a figure beside that of another row of the same encoder."""

    header: str
    how: str  # the other row's second cell
    key: str


@dataclass(frozen=True)
class Table:
    """How rows are shown: what to know about them, their columns, and what each leads with in a list of its own."""

    note: str
    columns: dict[str, Callable[[Figures], str]]
    beside: Beside | None = None
    details: tuple[str, ...] = ()


def shown(key: str, digits: int = 0, scale: float = 1.0) -> Callable[[Figures], str]:
    """How a figure is shown; what is not known is a dash."""
    return lambda figures: "-" if figures.get(key) is None else f"{figures[key] * scale:,.{digits}f}"


def share(key: str) -> Callable[[Figures], str]:
    """A share in per cent; what is not known is a dash."""
    return lambda figures: f"{figures[key]:.0%}" if key in figures else "-"


def listed(key: str) -> Callable[[Figures], str]:
    """Figures of several batch sizes."""
    return lambda figures: " / ".join(f"{figure:,.0f}" for figure in figures[key])


PEAK = {"peak, GiB": shown("peak_bytes", 1, 2**-30)}
STEP = {"step, ms": shown("step_ms", 1)}
TABLES = {
    "Training": Table(
        "Steps with CoSENT. cosent runs its whole trainer; sentence-transformers runs a raw step, without its trainer "
        "and with padded batches that are on the device already, which favours it. Steps are timed once they are "
        'steady, and afresh ("restarts") after one that recorded a graph or compiled something; "slowest" is the '
        'longest timed step on the host, "untimed" the time before. "of peak" is the share of the measured rate of '
        "matrix products that is spent on real tokens.",
        {
            "pairs/s": shown("pairs_per_second"),
            **STEP,
            "of peak": share("share_of_peak"),
            "timed steps": shown("timed_steps"),
            "slowest, ms": shown("slowest_host_step_ms", 1),
            "untimed, s": shown("untimed_seconds", 1),
            "restarts": shown("restarts"),
            **PEAK,
        },
        Beside("times theirs", PEER, "pairs_per_second"),
    ),
    "Encoding": Table(
        "Distinct texts, the best of two calls after one that warms up. cosent counts texts of 128 tokens in a batch, "
        "sentence-transformers counts texts as they are.",
        {
            "texts": shown("num_texts"),
            "batch size": listed("batch_sizes"),
            "texts/s": listed("texts_per_second"),
            **PEAK,
        },
        Beside("times theirs", PEER_ENCODING, "best_texts_per_second"),
    ),
    "Large batches": Table(
        "A step of the trainer on one large batch: gradient caching beside the whole batch at once.",
        {
            "pairs/s": shown("pairs_per_second"),
            **STEP,
            "timed steps": shown("timed_steps"),
            "slowest, ms": shown("slowest_host_step_ms", 1),
            **PEAK,
        },
        Beside("time, at once = 1", "at once", "step_ms"),
    ),
    "Profile of the device": Table(
        "Steady steps of the trainer under torch's profiler. Kernels that overlap count once in the time that they "
        "run; its share is of a step without the profiler. On a CPU, operations stand in for kernels.",
        {
            **STEP,
            "under the profiler, ms": shown("profiled_step_ms", 1),
            "kernels run, ms": shown("busy_ms", 1),
            "share": share("busy_share"),
            "kernels": shown("kernels_per_step"),
            "graph launches": shown("graph_launches_per_step"),
        },
        details=("kernel", "ms a step", "calls a step"),
    ),
    "Profile of the host": Table(
        "Steady steps of the trainer under cProfile, which slows Python down and sees only the thread that trains: the "
        "backward pass, which runs in another, appears as the call that waits for it.",
        {**STEP, "under the profiler, ms": shown("profiled_step_ms", 1)},
        details=("function, by its own time", "ms a step", "calls a step"),
    ),
}


class Page:
    """What is known so far, as `gpu.md` and `gpu.json`."""

    def __init__(self, folder: Path, device: torch.device, facts: dict[str, str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.device = device
        self.facts = facts
        self.rows: list[Row] = []

    def write(self) -> None:
        """Write both files, each at one stroke: whoever is killed here leaves the former ones."""
        taken = time.time() - psutil.Process().create_time()
        content = {**self.facts, "seconds": taken, "rows": [asdict(row) for row in self.rows]}
        self._write("gpu.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        self._write("gpu.md", self.markdown(taken))

    def _write(self, name: str, content: str) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(self.folder / name)

    def markdown(self, taken: float) -> str:
        """The page."""
        facts = "\n".join(f"- {name}: {fact}" for name, fact in self.facts.items())
        parts = [f"# Measured on {self.device.type}", f"{facts}\n- taken: {taken:.0f} s"]
        for title, layout in TABLES.items():
            rows = [row for row in self.rows if row.table == title]
            if rows:
                parts += [f"## {title}", layout.note, table(*self.cells(layout, rows))]
                parts += [detail_table(layout, row) for row in rows if "top" in row.figures]
                parts += [f"{', '.join(row.name)}, warning: {text}" for row in rows for text in row.warnings]
        return "\n\n".join(parts) + "\n"

    def cells(self, layout: Table, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
        """The header and the rows of a table."""
        beside = [layout.beside.header] if layout.beside else []
        return ["encoder, text", "how", *layout.columns, *beside], [cells_of(row, rows, layout) for row in rows]


def cells_of(row: Row, rows: Sequence[Row], layout: Table) -> list[str]:
    """A row of a table; one without figures says why in the first column that would have one."""
    if row.status != "measured":
        empty = [""] * (len(layout.columns) - 1 + (layout.beside is not None))
        return [*row.name, in_short(row.status, 200), *empty]
    cells = [*row.name, *(show(row.figures) for show in layout.columns.values())]
    return [*cells, ratio(row, rows, layout.beside)] if layout.beside else cells


def ratio(row: Row, rows: Sequence[Row], beside: Beside) -> str:
    """A row's figure beside the other row's; a dash where there is none."""
    others = [
        other.figures[beside.key]
        for other in rows
        if other.name == (row.name[0], beside.how) and beside.key in other.figures
    ]
    return f"{row.figures[beside.key] / others[0]:.2f}" if others else "-"


def detail_table(layout: Table, row: Row) -> str:
    """What a profile found to take most time."""
    rows = [[in_short(name, 100), f"{ms:.3f}", f"{calls:,.1f}"] for name, ms, calls in row.figures["top"]]
    return table(layout.details, rows)


def in_short(text: str, length: int) -> str:
    """A text that fits into a cell."""
    text = text.replace("|", "\\|")
    return text if len(text) <= length else f"{text[: length - 3]}..."


# ---------------------------------------------------------------- the command


def main() -> None:
    """Measure, and write the page after every measurement."""
    args = parse()
    quiet()
    datasets.disable_progress_bars()

    def is_time_for(seconds: float) -> bool:
        return time.time() - psutil.Process().create_time() + seconds <= args.seconds

    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "datasets"  # tokens are of no use to anybody later
        bench = Bench(args, Path(folder))
        page = Page(Path(args.out), bench.device, facts_of(bench))
        wanted = [m for m in measurements(bench) if not args.only or any(part in title(m) for part in args.only)]
        measure_all(wanted, page, is_time_for)
    failed = sum(row.status.startswith("FAILED") for row in page.rows)
    measured = sum(row.status == "measured" for row in page.rows)
    print(f"{measured} of {len(page.rows)} rows measured, {failed} FAILED: {page.folder / 'gpu.md'}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder with lcqmc/dev.tsv and stsb_en/train.tsv")
    parser.add_argument("--out", default="output/gpu", help="where gpu.md and gpu.json go")
    parser.add_argument("--tests", default="not run", help="what became of pytest -m cuda, for the page")
    parser.add_argument("--seconds", type=float, default=280.0, help="since the process began, for all measurements")
    parser.add_argument("--device", default=default_device().type)
    parser.add_argument(
        "--precision", default="bf16", choices=DTYPES, help="bf16: autocast in training, weights in encoding"
    )
    parser.add_argument("--shape", help=f"in place of every encoder: {', '.join(SHAPES)}, or a model's path")
    parser.add_argument("--graphs", nargs="+", default=["auto", "off"], help="cuda_graphs; the first one everywhere")
    parser.add_argument("--only", nargs="+", help="rows whose table, encoder or way have this in their names")
    parser.add_argument("--batch", type=int, default=64, help="pairs in a batch")
    parser.add_argument("--untimed", type=int, default=400, help="steps before the timed ones at most")
    parser.add_argument("--steps", type=int, default=30, help="timed at least")
    parser.add_argument("--step_seconds", type=float, default=3.0, help="for which steps are timed at least")
    parser.add_argument("--texts", type=int, default=10**9, help="distinct texts to encode at most")
    parser.add_argument("--large_batch", type=int, default=4096, help="pairs in a large batch")
    parser.add_argument("--micro_batch_tokens", type=int, default=16_384, help="tokens in a piece of it")
    parser.add_argument("--compile_backend", default="inductor", help="of torch.compile")
    return parser.parse_args()


def facts_of(bench: Bench) -> dict[str, str]:
    """What to know before reading any figure."""
    hardware, versions = machine(bench.device).splitlines()
    facts = {"hardware": hardware, "versions": versions}
    if bench.device.type == "cuda":
        card = torch.cuda.get_device_properties(bench.device)
        facts["card"] = (
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.multi_processor_count} multiprocessors, compute "
            f"capability {card.major}.{card.minor}, CUDA {torch.version.cuda}"
        )
    facts["precision"] = f"{bench.args.precision}, matrix products at {bench.rate / 1e12:,.3g} TFLOP/s"
    facts["batches"] = (
        f"{bench.args.batch} pairs, {bench.args.large_batch:,} in the large ones; texts of at most {MAX_LENGTH} tokens"
    )
    facts["data"] = "; ".join(
        f"{corpus.name}: {len(corpus.pairs):,} pairs, {len(corpus.texts):,} distinct texts"
        f"{f', repeated {corpus.repeats} times for training' if corpus.repeats > 1 else ''}"
        for corpus in bench.corpora.values()
    )
    facts["`pytest -m cuda`"] = bench.args.tests
    return facts


def title(measurement: Measurement) -> str:
    """What --only looks into."""
    return ", ".join((measurement.table, *measurement.name))


if __name__ == "__main__":
    main()
