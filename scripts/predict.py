"""Score a file of pairs: python scripts/predict.py --model_name_or_path M --input_path A.tsv --output_path B.tsv."""

from dataclasses import dataclass, field
from typing import Literal

from command_line import choose_device, parse, run

from cosent import SentenceBert
from cosent.data.layouts import Columns
from cosent.data.readers import ExampleReader, OnBadRows
from cosent.errors import UserError
from cosent.inference.predictions import check_output, score_file
from cosent.progress import is_watched
from cosent.training.arguments import ModelArguments, names


@dataclass(kw_only=True)
class PredictArguments:
    """What to score, and where scores go."""

    input_path: str = field(metadata={"help": "Pairs of texts, with or without labels. See README for the formats."})
    output_path: str = field(metadata={"help": "Where scores go: .tsv, .csv or .jsonl, in the input's order."})
    text_columns: str | None = field(
        default=None,
        metadata={"help": "The text columns, as name1,name2, or by position from 0 without a header: 0,1."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "The label's column, likewise; it is only written beside the scores."}
    )
    on_bad_rows: OnBadRows = field(
        default="error", metadata={"help": "What to do about rows that cannot be used: error, or skip and count."}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "A pair matches from this cosine on. Default: the one stored with the model."}
    )
    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Load, score, say where scores are."""
    model_args, args = parse(ModelArguments, PredictArguments)
    check_output(args.output_path)
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise UserError(f"--threshold is a cosine, from -1 to 1, not {args.threshold:g}")
    columns = Columns("pairs", names(args.text_columns), args.label_column, needs_label=False)
    reader = ExampleReader(args.input_path, columns, on_bad_rows=args.on_bad_rows)
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    number = score_file(
        model,
        reader,
        args.output_path,
        threshold=args.threshold,
        batch_size=args.batch_size,
        show_progress_bar=is_watched(),
    )
    skipped = f" ({reader.report.num_bad:,} bad rows left out)" if reader.report.num_bad else ""
    decision = model.settings.decision
    threshold = args.threshold if args.threshold is not None else decision.threshold if decision else float("nan")
    print(f"Scored {number:,} pairs{skipped}; they match from a cosine of {threshold:.4f} on", end="")
    if decision is not None and decision.calibration is not None:
        print(f", where a match has a probability of {decision.calibration(threshold):.2f}")
    else:
        print()
        print("The model stores no calibration, so there are no probabilities: scripts/calibrate.py fits one")
    print(f"Written to {args.output_path}")


if __name__ == "__main__":
    run(main)
