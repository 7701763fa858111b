"""Say how good an encoder is on held-out data: cosent test --model_name_or_path M --test_data_path T."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cosent.cli.arguments import BatchArguments, EvaluationArguments, ModelArguments
from cosent.cli.parsing import FlagParser, require_files
from cosent.cli.running import hush_libraries, joined_ranks
from cosent.cli.sample import sample_path


@dataclass
class TestArguments(EvaluationArguments, BatchArguments):
    """What to test on, and where results go."""

    test_data_path: str = field(
        default_factory=lambda: sample_path("test.txt"),
        metadata={"help": "Data to test on. docs/data.md has its formats. Default: the sample data."},
    )
    index_data_path: str | None = field(
        default=None,
        metadata={"help": "Classes: texts to look for neighbours in. Default: the test data's own other texts."},
    )
    report: bool = field(
        default=False, metadata={"help": "Also write report.html, a page with pictures (which need matplotlib)."}
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Report: compare scores with this model's. Default: what was fine-tuned, if it is a folder."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where metrics.json and predictions.tsv go. Default: output/test-<model>-<folder>-<data>."},
    )


def main(arguments: Sequence[str]) -> None:
    """Check what is given, then score, print, write."""
    parser = FlagParser(
        "test",
        [ModelArguments, TestArguments],
        description="Say how good an encoder is on held-out data, with intervals.",
    )
    model_args, args = parser.fill_from(arguments)
    require_files(args.test_data_path, args.index_data_path)
    hush_libraries()
    from cosent.cli.testing import test

    with joined_ranks():
        test(model_args, args)
