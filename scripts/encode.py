"""Turn a file's texts into embeddings on disk: python scripts/encode.py --help."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from command_line import choose_device, joined_ranks, launched_ranks, parse, run

from cosent import SentenceBert
from cosent.inference.embeddings import EncodedFile, EncodingOptions, encode_file
from cosent.progress import is_watched
from cosent.training.arguments import ModelArguments


@dataclass(kw_only=True)
class EncodeArguments(EncodingOptions):
    """Which texts, where to, and on what."""

    input_path: str = field(metadata={"help": "File of texts: TSV, CSV, JSON lines or Parquet; .gz may follow."})
    output_path: str = field(
        metadata={"help": "Where embeddings go: .npy for an array, .parquet for a table with the texts."}
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Load, embed, print; under torchrun, every rank its share."""
    model_args, args = parse(ModelArguments, EncodeArguments)
    rank, num_ranks = launched_ranks()
    with joined_ranks():
        encode(model_args, args, is_first=rank == 0, is_alone=num_ranks == 1)


def encode(model_args: ModelArguments, args: EncodeArguments, *, is_first: bool, is_alone: bool) -> None:
    """Embed this rank's share; the first rank says what was done."""
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    gpus = torch.cuda.device_count()
    if is_alone and gpus > 1 and model.device.type == "cuda":
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} scripts/encode.py ...")
    result = encode_file(
        model,
        args.input_path,
        args.output_path,
        args,
        normalize_embeddings=model_args.normalize_embeddings,
        show_progress_bar=is_first and is_watched(),
    )
    if is_first:
        report(args.output_path, result)


def report(path: str, result: EncodedFile) -> None:
    """Print what was done, and where it is."""
    shape = f"{result.shape[0]:,} rows of {result.shape[1]} dimensions"
    if result.was_complete:
        print(f"{path} is complete: {shape}. Nothing to do; --overwrite_output True makes it anew.")
        return
    speed = result.num_embedded / result.seconds
    print(f"Embedded {result.num_embedded:,} distinct texts in {result.seconds:.1f} s, {speed:,.0f} texts a second")
    print(f"Written to {path}: {shape}")


if __name__ == "__main__":
    run(main)
