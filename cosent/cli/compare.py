"""Compare two models on the same pairs: cosent compare A B --test_data_path T."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosent.cli.arguments import BatchArguments, EvaluationArguments, TrustArguments
from cosent.cli.parsing import FlagParser, Positional, require_apart, require_files
from cosent.cli.running import hush_libraries
from cosent.errors import UserError


@dataclass(kw_only=True)
class CompareArguments(EvaluationArguments, TrustArguments, BatchArguments):
    """Options of `cosent compare`."""

    test_data_path: list[str] = field(metadata={"help": "Labelled pairs that neither model was trained on."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for comparison.json and disagreements.tsv. Default: output/compare-<A>-<B>-<data>."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then compare."""
    parser = FlagParser(
        "compare",
        [CompareArguments],
        description="Compare two models on the same labelled pairs: differences with intervals, and disagreements.",
        positional=Positional("models", "The two models: folders or hub ids."),
    )
    given = parser.parse(arguments)
    (args,) = parser.fill(given)
    if len(given.models) != 2:
        raise UserError(f"two models are compared, not {len(given.models)}")
    if not args.num_resamples:
        raise UserError("--num_resamples must be at least 1 here")
    require_files(*args.test_data_path)
    if args.output_dir:
        outputs = [Path(args.output_dir, name) for name in ("comparison.json", "disagreements.tsv")]
        require_apart(outputs, *args.test_data_path)
    hush_libraries()
    from cosent.cli.comparison import compare

    first, second = given.models
    compare(first, second, args)
