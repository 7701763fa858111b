"""Training speed beside sentence-transformers: transformers' Trainer on both sides, the same pairs, the same batches.

    python benchmarks/train_throughput.py --data data/train.txt
    python benchmarks/train_throughput.py --data lcqmc.tsv --shape macbert-large --max_length 128 --batch 64

Each side trains one epoch with CoSENT in a process of its own, in turns; the first steps are not timed. Ours tokenises
before training, outside the timed steps, theirs within them. "of peak" is the share of the measured rate of matrix
products that is spent on real tokens: 6 FLOP a parameter of the encoder's layers and real token. Memory is what
training adds to the process at its peak, libraries and model included. With dropout off, the losses of both sides are
compared step by step.
"""

import argparse
import csv
import os
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import default_device, in_own_process, machine, matmul_rate, table
from numpy.typing import NDArray
from shapes import SHAPES, encoder_parameters, make_backbone
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

UNTIMED_STEPS = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """One training run."""

    model: str
    data: str
    batch: int
    max_length: int
    precision: str
    device: str
    dropout: bool = True
    num_steps: int = -1
    compiled: bool = False


@dataclass(frozen=True)
class Run:
    """What came of it: seconds of the timed steps, their number, and the loss of every step."""

    seconds: float
    steps: int
    losses: list[float]


def main() -> None:
    """Print one table, and how far the losses are apart."""
    args = parse()
    pairs = read_pairs(args.data, args.pairs)
    print(machine(args.device))
    print(f"{len(pairs):,} pairs of {args.data}, {args.batch} a batch, {args.max_length} tokens a text at most\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder  # of the processes to come
        for shape in args.shape:
            texts = [text for pair in pairs for text in pair[:2]]
            model = make_backbone(shape, texts, Path(folder) / shape)
            data = Path(folder) / "pairs.tsv"
            data.write_text("".join("\t".join(map(str, pair)) + "\n" for pair in pairs), encoding="utf-8")
            for precision in args.precision:
                job = Job(model, str(data), args.batch, args.max_length, precision, args.device)
                job = replace(job, compiled=args.torch_compile)
                rows.append(row_of(shape, job, args.rounds, len(pairs)))
            job = replace(job, precision="fp32", dropout=False, num_steps=8, compiled=False)
            lengths = text_lengths(job)
            print(f"{shape}: {loss_difference(job)}")
            print(f"{shape}: padding would be {1 - lengths.mean() / lengths.max(2).mean():.0%} of a batch")
    header = ["encoder", "precision", "ours, pairs/s", "theirs, pairs/s", "ratio", "ours of peak", "theirs of peak"]
    print("\n" + table([*header, "ours, GiB", "theirs, GiB"], rows))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/train.txt", help="tab-separated: text, text, label")
    parser.add_argument("--pairs", type=int, default=2048, help="how many of them")
    parser.add_argument("--shape", nargs="+", default=["minilm-l6"], help=f"{', '.join(SHAPES)}, or a model's path")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--batch", type=int, default=64, help="pairs in a batch")
    parser.add_argument("--max_length", type=int, default=128, help="tokens in a text at most")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side; the best counts")
    parser.add_argument("--torch_compile", action="store_true", help="on both sides")
    parser.add_argument("--device", default=default_device().type)
    return parser.parse_args()


def read_pairs(path: str, limit: int) -> list[tuple[str, str, float]]:
    """Some pairs of a file, in random order, their labels between 0 and 1."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row[-3:] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 3]
    pairs = [(a, b, float(label)) for a, b, label in rows if is_number(label)]
    random.Random(0).shuffle(pairs)
    top = max(label for _, _, label in pairs)
    return [(a, b, label / top) for a, b, label in pairs[:limit]]


def is_number(text: str) -> bool:
    """Whether a field is a label rather than its column's name."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def row_of(shape: str, job: Job, rounds: int, num_pairs: int) -> list[str]:
    """Run both sides in turns and lay out the best of each."""
    speeds: dict[Any, list[float]] = {train_ours: [], train_theirs: []}
    peaks = dict.fromkeys(speeds, 0)
    for _ in range(rounds):
        for side, taken in speeds.items():
            run, peak = in_own_process(side, job)
            taken.append(run.steps * job.batch / run.seconds)
            peaks[side] = max(peaks[side], peak)
    ours, theirs = (max(taken) for taken in speeds.values())
    work = 6 * encoder_parameters(job.model) * 2 * text_lengths(job).mean()
    rate = matmul_rate(job.device, DTYPES[job.precision])
    figures = [f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.2f}"]
    shares = [f"{speed * work / rate:.0%}" for speed in (ours, theirs)]
    return [shape, job.precision, *figures, *shares, *(f"{peak / 2**30:.2f}" for peak in peaks.values())]


def text_lengths(job: Job) -> NDArray[np.int64]:
    """Real tokens in each text, special ones included, as (full batches, 2 columns, pairs of a batch)."""
    from transformers import AutoTokenizer

    pairs = read_pairs_in_order(job.data)
    pairs = pairs[: len(pairs) // job.batch * job.batch]
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    texts = [text for pair in pairs for text in pair[:2]]
    rows = tokenizer(texts, truncation=True, max_length=job.max_length)["input_ids"]
    return np.array([len(row) for row in rows]).reshape(-1, job.batch, 2).swapaxes(1, 2)


def loss_difference(job: Job) -> str:
    """Train a few steps without dropout on both sides and compare their losses."""
    ours, theirs = (in_own_process(side, job)[0].losses for side in (train_ours, train_theirs))
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    return f"losses of {len(ours)} steps without dropout differ by {apart:.1e} at most, relative to them"


class Watch(TrainerCallback):
    """Notes when steps end, and their losses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the device, and look at the clock, once the untimed steps are over and at the end."""
        if state.global_step in (min(UNTIMED_STEPS, state.max_steps - 1), state.max_steps):
            if args.device.type != "cpu":
                torch.accelerator.synchronize()
            self.times.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the losses."""
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def run(self, steps: int) -> Run:
        """What was seen."""
        return Run(self.times[1] - self.times[0], steps - min(UNTIMED_STEPS, steps - 1), self.losses)


def common_arguments(job: Job, folder: str) -> dict[str, Any]:
    """What the two trainers are told alike; all else is as each has it by default."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job.batch,
        "num_train_epochs": 1,
        "max_steps": job.num_steps,
        "learning_rate": 2e-5,
        "bf16": job.precision == "bf16",
        "torch_compile": job.compiled,
        "train_sampling_strategy": "sequential",  # the pairs are in random order
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1 if not job.dropout else 50,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": job.device == "cpu",
        "dataloader_drop_last": True,
    }


def train_ours(job: Job) -> Run:
    """Train with CosentTrainer."""
    from cosent import CoSENTLoss, CosentTrainer, CosentTrainingArguments, SentenceBert, load_data

    quiet()
    dropout = None if job.dropout else 0.0
    model = SentenceBert(
        job.model, max_length=job.max_length, dropout=dropout, pooling_mode="mean", normalize_embeddings=False,
        device=job.device,
    )  # fmt: skip
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        args = CosentTrainingArguments(**common_arguments(job, folder))
        dataset = load_data(job.data, model, data_format="pairs")
        trainer = CosentTrainer(model, args, CoSENTLoss(), train_dataset=dataset, callbacks=[watch])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.run(trainer.state.global_step)


def train_theirs(job: Job) -> Run:
    """Train with SentenceTransformerTrainer."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from torch.utils.data import BatchSampler, SequentialSampler

    quiet()
    rates = {} if job.dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(job.model, config_kwargs=rates, device=job.device)
    model.max_seq_length = job.max_length
    if len(model) > 2:
        del model[2]  # the bundled model ends in a normalisation, which ours was told to leave out
    columns = zip(*read_pairs_in_order(job.data), strict=True)
    dataset = Dataset.from_dict(dict(zip(("sentence1", "sentence2", "score"), map(list, columns), strict=True)))

    def in_order(dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> BatchSampler:
        return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(**common_arguments(job, folder), batch_sampler=in_order)
        trainer = SentenceTransformerTrainer(
            model, args, train_dataset=dataset, loss=losses.CoSENTLoss(model), callbacks=[watch]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return watch.run(trainer.state.global_step)


def read_pairs_in_order(path: str) -> list[tuple[str, str, float]]:
    """The pairs of the benchmark's own file."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    return [(a, b, float(label)) for a, b, label in (line.split("\t") for line in lines)]


def quiet() -> None:
    """No progress bars between the lines of the table."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


if __name__ == "__main__":
    main()
