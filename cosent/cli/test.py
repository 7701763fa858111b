"""Evaluate an encoder on held-out data: cosent test --model_name_or_path M --test_data_path T."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosent.cli.arguments import BatchArguments, EvaluationArguments, ModelArguments, PromptArguments
from cosent.cli.parsing import FlagParser, require_apart, require_files
from cosent.cli.running import hush_libraries, joined_ranks, launched_ranks
from cosent.cli.sample import sample_path
from cosent.data.retrieval import read_qrels, read_texts
from cosent.errors import UserError


@dataclass
class TestArguments(EvaluationArguments, PromptArguments, BatchArguments):
    """Data and output of `cosent test`."""

    test_data_path: list[str] = field(
        default_factory=lambda: [sample_path("test.txt")],
        metadata={"help": "Data to test on; docs/data.md has the formats. Default: the sample data."},
    )
    index_data_path: str | None = field(
        default=None,
        metadata={"help": "Data with classes: file in which to search neighbours. Default: the other test texts."},
    )
    queries: str | None = field(
        default=None,
        metadata={"help": "Search: file of queries with ids, in the place of --test_data_path; see docs/search.md."},
    )
    corpus: str | None = field(default=None, metadata={"help": "Search: file of the documents with ids."})
    qrels: str | None = field(
        default=None, metadata={"help": "Search: file that says which documents are relevant to which queries."}
    )
    ignore_identical_ids: bool = field(
        default=False, metadata={"help": "Search: leave a document with the query's own id out of the ranking."}
    )
    report: bool = field(
        default=False, metadata={"help": "Also write report.html, a page with plots (which need matplotlib)."}
    )
    spreadsheet: bool = field(
        default=False,
        metadata={
            "help": "Pairs: write predictions.csv for a spreadsheet instead of predictions.tsv, with a byte order mark "
            "and an apostrophe before texts that it would run as a formula."
        },
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
    check_search(args)
    if args.queries and args.corpus and args.qrels:
        files = read_texts(args.queries), read_texts(args.corpus), read_qrels(args.qrels)
        hush_libraries()
        from cosent.cli.search_testing import test_search

        test_search(model_args, args, *files)
        return
    require_files(*args.test_data_path, args.index_data_path)
    if args.output_dir:
        outputs = [
            Path(args.output_dir, name)
            for name in ("metrics.json", "predictions.tsv", "predictions.csv", "report.html")
        ]
        require_apart(outputs, *args.test_data_path, args.index_data_path)
    hush_libraries()
    from cosent.cli.testing import test

    with joined_ranks():
        test(model_args, args)


def check_search(args: TestArguments) -> None:
    """Refuse flags that do not fit together where a search is to be tested."""
    paths = args.queries, args.corpus, args.qrels
    if not any(paths):
        return
    if not all(paths):
        raise UserError("--queries, --corpus and --qrels test a search together: give all three")
    if args.report:
        raise UserError("--report has no page for a search")
    if launched_ranks()[1] > 1:
        raise UserError("a search is tested by one process: start `cosent test` without a launcher")
