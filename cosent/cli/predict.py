"""Score pairs: cosent predict --model_name_or_path M --input_path A.tsv --output_path B.tsv, or predict M TEXT TEXT."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cosent.cli.arguments import BatchArguments, ModelArguments, names
from cosent.cli.parsing import FlagParser, Positional, UsageError, decoded
from cosent.cli.running import choose_device, hush_libraries
from cosent.cli.standard_streams import STREAM, InputFormat, StreamedPaths, check_streams, output_name, streamed
from cosent.data.layouts import Columns
from cosent.data.lines import MAX_TEXT_BYTES
from cosent.data.readers import ExampleReader, OnBadRows
from cosent.errors import UserError
from cosent.inference.predictions import check_output, score_file
from cosent.progress import is_watched

if TYPE_CHECKING:
    from cosent import SentenceBert
    from cosent.model.decision import Decision

_NO_CALIBRATION = "The model stores no calibration, so there are no probabilities: `cosent calibrate` fits one"


@dataclass(kw_only=True)
class PredictArguments(BatchArguments):
    """Input and output of `cosent predict`."""

    input_path: str = field(
        metadata={
            "help": "Pairs of texts, with or without labels. docs/data.md has the formats. -: standard input.",
        }
    )
    output_path: str = field(
        metadata={
            "help": "File for the scores, in input order: .tsv, .csv or .jsonl. -: tab-separated on standard output."
        }
    )
    input_format: InputFormat | None = field(default=None, metadata={"help": "Format of standard input. Default: tsv."})
    text_columns: str | None = field(
        default=None,
        metadata={"help": "The text columns, as name1,name2, or by position from 0 without a header: 0,1."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "The label column, by name or position; it is only written beside the scores."}
    )
    on_bad_rows: OnBadRows = field(
        default="error", metadata={"help": "What to do with unusable rows: error, or skip and count them."}
    )
    max_text_bytes: int = field(
        default=MAX_TEXT_BYTES,
        metadata={"help": "Maximum number of bytes in a line, a .csv row or a text; longer ones are bad rows."},
    )
    threshold: float | None = field(
        default=None, metadata={"help": "The lowest cosine of a match. Default: the one stored with the model."}
    )
    spreadsheet: bool = field(
        default=False,
        metadata={
            "help": "Write the .csv for a spreadsheet: with a byte order mark, and an apostrophe before texts that it "
            "would run as a formula."
        },
    )

    def __post_init__(self) -> None:
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise UserError(f"--threshold is a cosine, from -1 to 1, not {self.threshold:g}")


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then score a file or one pair."""
    parser = FlagParser(
        "predict",
        [ModelArguments, PredictArguments],
        description="Score pairs and decide which match: those of a file, or a single pair, RUN TEXT TEXT.",
        positional=Positional("pair", "A model and two texts, in the place of a model and files given by flags.", "*"),
        stands_for=("model_name_or_path", "input_path", "output_path"),
    )
    given = parser.parse(arguments)
    model_args, args = parser.fill(given)
    if not given.pair:
        predict_paths(model_args, args)
        return
    if len(given.pair) != 3:
        raise UsageError(f"cosent predict takes a model and two texts, or flags; got {len(given.pair)} arguments")
    model_args.model_name_or_path, *texts = given.pair
    hush_libraries()
    predict_pair(model_args, args, *map(decoded, texts))


def predict_paths(model_args: ModelArguments, args: PredictArguments) -> None:
    """Check the paths, each of which may be a standard stream, and score the pairs."""
    check_streams(args.input_path, args.output_path, args.input_format)
    if args.output_path != STREAM:
        check_output(args.output_path, spreadsheet=args.spreadsheet)
    elif args.spreadsheet:
        raise UserError("--spreadsheet is for a .csv file: standard output is tab-separated")
    hush_libraries()
    with streamed(args.input_path, args.output_path, args.input_format, output_suffix=".tsv") as paths:
        predict_file(model_args, args, paths)


def load(model_args: ModelArguments, args: PredictArguments) -> "SentenceBert":
    """Load the model onto its device."""
    from cosent import SentenceBert

    return SentenceBert(**vars(model_args), device=choose_device(args.device))


def predict_pair(model_args: ModelArguments, args: PredictArguments, first: str, second: str) -> None:
    """Print the score, probability and decision of two texts, one per line."""
    model = load(model_args, args)
    found = model.predict([(first, second)], threshold=args.threshold)
    print(f"score\t{found.scores[0]:.6f}")
    print(f"probability\t{'' if found.probabilities is None else f'{found.probabilities[0]:.6f}'}")
    print(f"decision\t{int(found.matches[0])}")
    decision = model.settings.decision
    print(about_probability(decision, model.settings.threshold(args.threshold)), file=sys.stderr)


def about_probability(decision: "Decision | None", threshold: float) -> str:
    """Explain the probability at the threshold, or why there are no probabilities."""
    from cosent.evaluation.decide import describe_probability

    return (describe_probability(decision, threshold) if decision is not None else "") or _NO_CALIBRATION


def predict_file(model_args: ModelArguments, args: PredictArguments, paths: StreamedPaths) -> None:
    """Load the model, score the file, and print where the scores are."""
    columns = Columns("pairs", names(args.text_columns), args.label_column, needs_label=False)
    reader = ExampleReader(paths.input, columns, on_bad_rows=args.on_bad_rows, max_text_bytes=args.max_text_bytes)
    model = load(model_args, args)
    number = score_file(
        model,
        reader,
        paths.output,
        threshold=args.threshold,
        batch_size=args.batch_size,
        show_progress_bar=is_watched(),
        spreadsheet=args.spreadsheet,
    )
    skipped = f" ({reader.report.num_bad:,} bad rows left out)" if reader.report.num_bad else ""
    decision = model.settings.decision
    threshold = model.settings.threshold(args.threshold)
    print(f"Scored {number:,} pairs{skipped}; they match from a cosine of {threshold:.4f} on")
    print(about_probability(decision, threshold))
    print(f"Written to {output_name(args.output_path)}")
