"""Turn a file's texts into embeddings on disk: cosent encode --help."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosent.cli.arguments import DeviceArguments, ModelArguments
from cosent.cli.parsing import FlagParser
from cosent.cli.running import choose_device, hush_libraries, joined_ranks, launched_ranks
from cosent.cli.sources import mirror
from cosent.cli.standard_streams import InputFormat, StreamedPaths, check_streams, output_name, streamed
from cosent.progress import is_watched

if TYPE_CHECKING:
    from cosent.inference.embeddings import EncodedFile


@dataclass(kw_only=True)
class EncodeArguments(DeviceArguments):
    """Input and output of `cosent encode`."""

    input_path: str = field(
        metadata={"help": "File of texts: TSV, CSV, JSON lines or Parquet; .gz may follow. -: standard input."}
    )
    output_path: str = field(
        metadata={
            "help": "File for the embeddings: .npy for an array, .parquet for a table with the texts. -: an array on "
            "standard output."
        }
    )
    input_format: InputFormat | None = field(
        default=None, metadata={"help": "Format of standard input. Default: tsv, which may be one text per line."}
    )


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then embed; under torchrun, each rank embeds its share."""
    parser = FlagParser(
        "encode",
        [ModelArguments, EncodeArguments, mirror("cosent.inference.embeddings", "EncodingOptions")],
        description="Embed a file's texts, one row each, in the file's order; a killed run can be continued.",
    )
    model_args, args, options = parser.fill_from(arguments)
    check_streams(args.input_path, args.output_path, args.input_format)
    hush_libraries()
    with (
        streamed(args.input_path, args.output_path, args.input_format, output_suffix=".npy") as paths,
        joined_ranks(),
    ):
        encode(model_args, args, vars(options), paths)


def encode(model_args: ModelArguments, args: EncodeArguments, options: dict[str, Any], paths: StreamedPaths) -> None:
    """Embed this rank's share; the first rank prints the result."""
    import torch

    from cosent import SentenceBert
    from cosent.inference.embeddings import EncodingOptions, encode_file, find_columns

    encoding = EncodingOptions(**options)
    find_columns(Path(paths.input), encoding.column, logging.DEBUG)  # loading a model may take long
    rank, num_ranks = launched_ranks()
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    gpus = torch.cuda.device_count()
    if num_ranks == 1 and gpus > 1 and model.device.type == "cuda":
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} -m cosent encode ...")
    result = encode_file(
        model,
        paths.input,
        paths.output,
        encoding,
        normalize_embeddings=model_args.normalize_embeddings,
        show_progress_bar=rank == 0 and is_watched(),
    )
    if rank == 0:
        report(output_name(args.output_path), result)


def report(path: str, result: "EncodedFile") -> None:
    """Print what was embedded, and where the output is."""
    shape = f"{result.shape[0]:,} rows of {result.shape[1]} dimensions"
    if result.was_complete:
        print(f"{path} is complete: {shape}. Nothing to do; --overwrite_output True makes it anew.")
        return
    speed = result.num_embedded / result.seconds
    print(f"Embedded {result.num_embedded:,} distinct texts in {result.seconds:.1f} s, {speed:,.0f} texts a second")
    print(f"Written to {path}: {shape}")
