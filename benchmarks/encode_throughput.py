"""Encoding speed beside sentence-transformers: the same texts, duplicates included.

    python benchmarks/encode_throughput.py --data data/train.txt
    python benchmarks/encode_throughput.py --data lcqmc.tsv --shape macbert-large --precision bf16 --texts 200000

Each side runs in a process of its own, in turns, with the batch size that is fastest for it on a part of the texts.
Ours counts texts of 128 tokens in a batch, and embeds equal texts once. "of peak" is the share of the measured rate of
matrix products that is spent on real tokens: 2 FLOP a parameter of the encoder's layers and real token, each text as
often as it is asked for. Memory is what encoding adds at its peak to the process with the model in it, the result
included. bf16 is the type of the weights.
"""

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import (
    PeakMemory,
    default_device,
    give_back_memory,
    in_own_process,
    machine,
    matmul_rate,
    table,
)
from shapes import SHAPES, encoder_parameters, make_backbone
from train_throughput import DTYPES, quiet, read_pairs

BATCHES = {"cpu": (8, 16, 32, 64), "other": (32, 128, 512)}
TRIAL_TEXTS = {"cpu": 1024, "other": 32_768}


@dataclass(frozen=True)
class Job:
    """What to encode, with what."""

    model: str
    data: str
    max_length: int
    precision: str
    device: str


@dataclass(frozen=True)
class Run:
    """Seconds for all texts, the peak of memory meanwhile, the batch size that was chosen, and some embeddings."""

    seconds: float
    peak: int
    batch_size: int
    embeddings: np.ndarray


def main() -> None:
    """Print one table."""
    args = parse()
    texts = [text for pair in read_pairs(args.data, 10**9) for text in pair[:2]]
    random.Random(0).shuffle(texts)
    texts = texts[: args.texts]
    print(machine(args.device))
    print(f"{len(texts):,} texts of {args.data}, {len(set(texts)):,} of them distinct\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "texts.txt"
        data.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        for shape in args.shape:
            model = make_backbone(shape, texts, Path(folder) / shape)
            for precision in args.precision:
                rows.append(row_of(shape, Job(model, str(data), args.max_length, precision, args.device), args.rounds))
    header = ["encoder", "precision", "ours, texts/s", "theirs, texts/s", "ratio", "ours of peak", "theirs of peak"]
    print(table([*header, "ours, GiB", "theirs, GiB", "our batch", "their batch", "least cosine"], rows))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/train.txt", help="tab-separated: text, text, label")
    parser.add_argument("--texts", type=int, default=8192, help="how many of its texts")
    parser.add_argument("--shape", nargs="+", default=["minilm-l6"], help=f"{', '.join(SHAPES)}, or a model's path")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--max_length", type=int, default=128, help="tokens in a text at most")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side; the best counts")
    parser.add_argument("--device", default=default_device().type)
    return parser.parse_args()


def row_of(shape: str, job: Job, rounds: int) -> list[str]:
    """Run both sides in turns and lay out the best of each."""
    runs: dict[Any, list[Run]] = {encode_ours: [], encode_theirs: []}
    for _ in range(rounds):
        for side, taken in runs.items():
            taken.append(in_own_process(side, job)[0])
    ours, theirs = (min(taken, key=lambda run: run.seconds) for taken in runs.values())
    texts = read_texts(job.data)
    speeds = [len(texts) / run.seconds for run in (ours, theirs)]
    rate = matmul_rate(job.device, DTYPES[job.precision])
    work = 2 * encoder_parameters(job.model) * tokens_per_text(job, texts)
    cosines = (ours.embeddings * theirs.embeddings).sum(1)
    return [
        shape,
        job.precision,
        *(f"{speed:,.0f}" for speed in speeds),
        f"{speeds[0] / speeds[1]:.2f}",
        *(f"{speed * work / rate:.0%}" for speed in speeds),
        *(f"{peak / 2**30:.2f}" for peak in (ours.peak, theirs.peak)),
        *(f"{run.batch_size}" for run in (ours, theirs)),
        f"{cosines.min():.6f}",
    ]


def read_texts(path: str) -> list[str]:
    """The texts of the benchmark's own file."""
    return Path(path).read_text(encoding="utf-8").split("\n")[:-1]


def tokens_per_text(job: Job, texts: list[str]) -> float:
    """Real tokens, special ones included, in a text on average."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.model)
    return sum(map(len, tokenizer(texts, truncation=True, max_length=job.max_length)["input_ids"])) / len(texts)


def encode_ours(job: Job) -> Run:
    """Encode with SentenceBert."""
    from cosent import SentenceBert

    quiet()
    model = SentenceBert(
        job.model,
        dtype=str(DTYPES[job.precision]).removeprefix("torch."),
        max_length=job.max_length,
        pooling_mode="mean",
        device=job.device,
    )
    return timed(model, job)


def encode_theirs(job: Job) -> Run:
    """Encode with SentenceTransformer."""
    from sentence_transformers import SentenceTransformer

    quiet()
    model = SentenceTransformer(job.model, model_kwargs={"dtype": DTYPES[job.precision]}, device=job.device)
    model.max_seq_length = job.max_length
    return timed(model, job)


def timed(model: Any, job: Job) -> Run:
    """Choose a batch size, then encode all texts."""
    texts = read_texts(job.data)
    kind = "cpu" if job.device == "cpu" else "other"
    trial = texts[: TRIAL_TEXTS[kind]]
    model.encode(trial[:64])
    taken = {size: min(seconds(model, trial, size)[0] for _ in range(2)) for size in BATCHES[kind]}
    batch_size = min(taken, key=lambda size: taken[size])
    give_back_memory()
    with PeakMemory() as peak:
        all_seconds, embeddings = seconds(model, texts, batch_size)
    some = embeddings[:256].astype(np.float64)
    return Run(all_seconds, peak.bytes, batch_size, some / np.linalg.norm(some, axis=1, keepdims=True))


def seconds(model: Any, texts: list[str], batch_size: int) -> tuple[float, np.ndarray]:
    """Time one call; its result is on the CPU, so the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    embeddings = model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    return time.perf_counter() - start, embeddings


if __name__ == "__main__":
    main()
