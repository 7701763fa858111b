"""What the GPU measurements share: the options, the device, the texts, and encoders with random weights."""

import argparse
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import torch
from measuring import machine, matmul_rate
from shapes import make_backbone
from train_throughput import DTYPES, read_pairs

from cosent import SentenceBert

ROOT = Path(__file__).parent.parent
MAX_LENGTH = 128
SAMPLES = {"lcqmc/dev.tsv": "data/zh/train.txt", "stsb_en/train.tsv": "data/train.txt"}

Figures = dict[str, Any]


class Subject:
    """An encoder with random weights and the texts that it reads: a file of --data, or the sample that replaces it.

    Attributes:
        label: the first cell of its rows.
        source: the name of the file that was read.
        pairs: of the file, in random order.
        texts: the distinct texts of the pairs.
        training_file: the pairs, repeated until an epoch has at least six large batches.
    """

    def __init__(self, args: argparse.Namespace, shape: str, file: str, folder: Path):
        path, self.source = Path(args.data) / file, file
        if not args.data or not path.exists():
            path, self.source = ROOT / SAMPLES[file], f"sample {SAMPLES[file]}"
        self.label = f"{f'{args.shape} for ' if args.shape else ''}{shape}, {self.source}"
        self.pairs = read_pairs(str(path), 10**9)
        self.texts = list(dict.fromkeys(text for pair in self.pairs for text in pair[:2]))
        self.training_file = folder / f"pairs-{shape}.tsv"
        lines = ["\t".join(map(str, pair)) + "\n" for pair in self.pairs]
        repeats = -(-6 * max(args.large_batch, args.batch) // len(lines))
        self.training_file.write_text("".join(lines * repeats), encoding="utf-8")
        self._make = partial(make_backbone, args.shape or shape, self.texts, folder / f"encoder-{shape}", bundled=False)

    @cached_property
    def path(self) -> str:
        """The encoder's folder, made when it is first needed."""
        return self._make()


class Bench:
    """The options, the device, the speed of its matrix products, and the subjects."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        datasets.disable_progress_bars()
        self.args = args
        self.folder = folder
        self.device = torch.device(args.device)
        self.dtype = DTYPES[args.precision]
        self.rate = matmul_rate(self.device, self.dtype)
        self.large = Subject(args, "macbert-large", "lcqmc/dev.tsv", folder)
        self.small = Subject(args, "minilm-l6-random", "stsb_en/train.tsv", folder)
        self.base = Subject(args, "bert-base", "stsb_en/train.tsv", folder)

    def model(self, subject: Subject, dtype: torch.dtype, graphs: str) -> SentenceBert:
        """Load a subject's encoder with cosent."""
        return SentenceBert(subject.path, max_length=MAX_LENGTH, dtype=dtype, device=self.device, cuda_graphs=graphs)

    def peer(self, subject: Subject, dtype: torch.dtype) -> Any:
        """Load a subject's encoder with sentence-transformers."""
        from sentence_transformers import SentenceTransformer  # here, so that a failure costs only the peer's rows

        model = SentenceTransformer(subject.path, model_kwargs={"dtype": dtype}, device=str(self.device))
        model.max_seq_length = MAX_LENGTH
        return model

    def facts(self) -> dict[str, str]:
        """Describe the machine, the options and the data."""
        args = self.args
        hardware, versions = machine(self.device).splitlines()
        if self.device.type == "cuda":
            hardware += f", {torch.cuda.get_device_properties(self.device).total_memory / 2**30:.0f} GiB"
        return {
            "hardware": hardware,
            "versions": versions,
            "precision": f"{args.precision}, matrix products at {self.rate / 1e12:,.3g} TFLOP/s",
            "batches": f"{args.batch} pairs, large ones {args.large_batch:,}; at most {MAX_LENGTH} tokens a text",
            "data": "; ".join(
                f"{subject.source}: {len(subject.pairs):,} pairs, {len(subject.texts):,} distinct texts"
                for subject in (self.large, self.small)
            ),
            "`pytest -m cuda`": args.tests,
        }
