"""Say how good an encoder is on labelled pairs: python scripts/test.py --model_name_or_path M --test_data_path T."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from command_line import parse, run

from cosent import PairDataset, SentenceBert, load_pairs
from cosent.evaluation.evaluators import PairEvaluation, evaluate_pairs
from cosent.progress import is_watched
from cosent.training.arguments import ModelArguments, ReadingArguments

# what separates the fields and the lines of predictions.tsv becomes a space within a text
_NO_SEPARATORS = str.maketrans("\t\r\n", "   ")


@dataclass
class TestArguments(ReadingArguments):
    """What to test on, and where results go."""

    test_data_path: str = field(
        default="data/test.txt", metadata={"help": "Pairs to test on: text, text, label. See README for formats."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where metrics.json and predictions.tsv go. Default: output/test-<model>-<data>."},
    )
    batch_size: int = field(default=64, metadata={"help": "Texts in a batch."})
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Load, score, print, write."""
    model_args, args = parse(ModelArguments, TestArguments)
    model = SentenceBert(**vars(model_args), device=None if args.device == "auto" else args.device)
    pairs = load_pairs(args.test_data_path, model, **args.reading_options)
    decision = model.settings.decision
    threshold = decision.threshold if decision else None
    positive_label_min = args.positive_label_min
    if positive_label_min is None and decision is not None and not np.isin(pairs.labels, (0, 1)).all():
        positive_label_min = decision.positive_label_min
    result = evaluate_pairs(
        model,
        pairs.tokens,
        batch_size=args.batch_size,
        positive_label_min=positive_label_min,
        threshold=threshold,
        show_progress_bar=is_watched(),
    )
    folder = Path(args.output_dir or default_folder(model_args.model_name_or_path, args.test_data_path))
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", result.metrics)
    write_predictions(folder / "predictions.tsv", pairs, result, threshold)
    report(model_args.model_name_or_path, pairs, result.metrics, model)
    print(f"\nWritten: {folder}/metrics.json and {folder}/predictions.tsv")


def default_folder(model_name: str, data_path: str) -> str:
    """Where results go when nobody says: named after the model and the data."""
    return f"output/test-{Path(model_name).absolute().name}-{Path(data_path).name.split('.')[0]}"


def report(name: str, pairs: PairDataset, metrics: dict[str, float], model: SentenceBert) -> None:
    """Print the metrics, those at the stored threshold apart from those chosen on the test data."""
    skipped = f" ({pairs.report.num_bad:,} bad rows left out)" if pairs.report.num_bad else ""
    print(f"{name} on {len(pairs):,} pairs of {pairs.report.path}{skipped}")
    if pairs.truncated_share:
        print(f"{pairs.truncated_share:.2%} of texts were cut at {model.max_length} tokens")
    print(f"\n  Spearman {metrics['spearman']:.4f}   Pearson {metrics['pearson']:.4f}")
    decision = model.settings.decision
    if "accuracy" in metrics and decision is not None:
        print(f"\nAt the stored threshold {decision.threshold:.4f}, chosen on {decision.calibrated_on}:")
        print(
            f"  accuracy {metrics['accuracy']:.4f}   precision {metrics['precision']:.4f}   "
            f"recall {metrics['recall']:.4f}   F1 {metrics['f1']:.4f}   MCC {metrics['mcc']:.4f}"
        )
    if decision is None:
        print("\nNo threshold is stored with this model: train.py chooses one on labelled eval data.")
    if "best_accuracy" in metrics:
        print("\nChosen on this very test data, so no forecast for other data:")
        print(f"  best accuracy {metrics['best_accuracy']:.4f} at threshold {metrics['best_threshold']:.4f}")
        print(f"  best F1       {metrics['best_f1']:.4f} at threshold {metrics['best_f1_threshold']:.4f}")
        print(f"\n  average precision {metrics['average_precision']:.4f}   ROC-AUC {metrics['roc_auc']:.4f}")
    else:
        print("\nLabels are graded: --positive_label_min says from which label on a pair matches.")
    print(f"\nTook {metrics['seconds']:.1f} s, {metrics['texts_per_second']:,.0f} distinct texts a second")


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Write metrics as JSON, where undefined ones are null."""
    plain = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def write_predictions(path: Path, pairs: PairDataset, result: PairEvaluation, threshold: float | None) -> None:
    """Write text, text, label, score and decision (1 match, 0 none, empty without a stored threshold)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        print("text1", "text2", "label", "score", "decision", sep="\t", file=file)
        for row, score in zip(pairs.records, result.scores, strict=True):
            matched = "" if threshold is None else int(float(score) >= threshold)
            texts = [row[name].translate(_NO_SEPARATORS) for name in ("text1", "text2")]
            print(*texts, f"{row['label']:g}", f"{score:.6f}", matched, sep="\t", file=file)


if __name__ == "__main__":
    run(main)
