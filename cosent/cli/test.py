"""Evaluate an encoder on held-out data: cosent test --model_name_or_path M --test_data_path T."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cosent.cli.arguments import BatchArguments, EvaluationArguments, ModelArguments
from cosent.cli.parsing import FlagParser, require_files
from cosent.cli.running import hush_libraries, joined_ranks
from cosent.cli.sample import sample_path


@dataclass
class TestArguments(EvaluationArguments, BatchArguments):
    """Data and output of `cosent test`."""

    test_data_path: str = field(
        default_factory=lambda: sample_path("test.txt"),
        metadata={"help": "Data to test on; docs/data.md has the formats. Default: the sample data."},
    )
    index_data_path: str | None = field(
        default=None,
        metadata={"help": "Data with classes: file in which to search neighbours. Default: the other test texts."},
    )
    report: bool = field(
        default=False, metadata={"help": "Also write report.html, a page with plots (which need matplotlib)."}
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Report: model to compare scores with. Default: the one fine-tuned, if it is a folder."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for metrics.json and predictions.tsv. Default: output/test-<model>-<folder>-<data>."},
    )


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then score the data, print and write the results."""
    parser = FlagParser(
        "test",
        [ModelArguments, TestArguments],
        description="Evaluate an encoder on held-out data, with confidence intervals.",
    )
    model_args, args = parser.fill_from(arguments)
    require_files(args.test_data_path, args.index_data_path)
    hush_libraries()
    from cosent.cli.testing import test

    with joined_ranks():
        test(model_args, args)
