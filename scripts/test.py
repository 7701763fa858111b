"""Say how good an encoder is on held-out data: python scripts/test.py --model_name_or_path M --test_data_path T."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from command_line import NOUNS, choose_device, joined_ranks, launched_ranks, parse, run, unknown_tokens
from numpy.typing import NDArray

from cosent import SentenceBert, TextDataset, load_data
from cosent.data.layouts import DataFormat
from cosent.distributed import first_rank_first
from cosent.errors import UserError
from cosent.evaluation.evaluators import EvaluationOptions, evaluate
from cosent.progress import is_watched
from cosent.training.arguments import ModelArguments, ReadingArguments

# what separates the fields and the lines of predictions.tsv becomes a space within a text
_NO_SEPARATORS = str.maketrans("\t\r\n", "   ")


@dataclass
class TestArguments(ReadingArguments):
    """What to test on, and where results go."""

    test_data_path: str = field(
        default="data/test.txt", metadata={"help": "Data to test on. See README for its formats."}
    )
    index_data_path: str | None = field(
        default=None,
        metadata={"help": "Classes: texts to look for neighbours in. Default: the test data's own other texts."},
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where metrics.json and predictions.tsv go. Default: output/test-<model>-<folder>-<data>."},
    )
    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Load, score, print, write."""
    model_args, args = parse(ModelArguments, TestArguments)
    with joined_ranks():
        test(model_args, args)


def test(model_args: ModelArguments, args: TestArguments) -> None:
    """Score; under a launcher, every rank embeds its share, and the first one says how good it is."""
    model = SentenceBert(**vars(model_args), device=choose_device(args.device))
    likely = likely_format(model)
    index_path = args.index_data_path
    with first_rank_first():
        data = load_data(args.test_data_path, model, likely_format=likely, **args.reading_options)
        index = load_data(index_path, model, likely_format="classes", **args.reading_options) if index_path else None
    if index is not None and data.data_format != "classes":
        raise UserError(f"--index_data_path is for classes; {args.test_data_path} holds {NOUNS[data.data_format]}")
    decision = model.settings.decision
    stored_min = decision.positive_label_min if decision else None
    options = EvaluationOptions(
        batch_size=args.batch_size,
        positive_label_min=args.positive_label_min if args.positive_label_min is not None else stored_min,
        threshold=decision.threshold if decision else None,
        index=index,
        num_neighbors=args.num_neighbors,
        show_progress_bar=is_watched(),
    )
    result = evaluate(model, data, options)
    if launched_ranks()[0] > 0:
        return
    metrics = result.metrics
    folder = Path(args.output_dir or default_folder(model_args.model_name_or_path, args.test_data_path))
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.json", metrics)
    print(heading(model_args.model_name_or_path, data, model))
    if result.scores is None:
        report_metrics(metrics, index_path)
    else:
        report_pairs(metrics, model)
        write_predictions(folder / "predictions.tsv", data, result.scores, options.threshold)
    print(f"\nTook {metrics['seconds']:.1f} s, {metrics['texts_per_second']:,.0f} distinct texts a second")
    print(f"\nWritten to {folder}: metrics.json" + (" and predictions.tsv" if result.scores is not None else ""))


def likely_format(model: SentenceBert) -> DataFormat | None:
    """What two columns without names are: what the model was trained on."""
    formats: dict[str, DataFormat] = {"InfoNCELoss": "triplets", "BatchHardTripletLoss": "classes"}
    return formats.get((model.settings.loss or {}).get("name", ""))


def default_folder(model_name: str, data_path: str) -> str:
    """Where results go when nobody says: named after the model and the data."""
    data = Path(data_path).absolute()
    name = data.name.removesuffix(".gz").rsplit(".", 1)[0]
    return f"output/test-{Path(model_name).absolute().name}-{data.parent.name}-{name}"


def heading(name: str, data: TextDataset, model: SentenceBert) -> str:
    """What is tested on what."""
    report = data.records.report
    skipped = f" ({report.num_bad:,} bad rows left out)" if report.num_bad else ""
    cut = data.truncated_share
    truncated = f"\n{cut:.2%} of texts were cut at {model.max_length} tokens" if cut else ""
    unknown = unknown_tokens(data, model)
    return f"{name} on {len(data):,} {NOUNS[data.data_format]} of {report.path}{skipped}{truncated}{unknown}\n"


def report_metrics(metrics: dict[str, float], index_path: str | None) -> None:
    """Print the metrics of data without a decision to make."""
    left_out = metrics["n"] - metrics.get("num_queries", metrics["n"])
    if "knn_accuracy" in metrics:
        print(f"Neighbours are looked for in {index_path or 'the other test texts; --index_data_path names a file'}\n")
    if left_out:
        print(f"{left_out:,} texts are left out: no other text of their class is there to be found\n")
    for name, value in metrics.items():
        if name not in ("n", "num_queries", "seconds", "texts_per_second"):
            print(f"  {name.replace('_', ' '):28}{value:8.4f}")


def report_pairs(metrics: dict[str, float], model: SentenceBert) -> None:
    """Print the metrics of pairs, those at the stored threshold apart from those chosen on the test data."""
    print(f"  Spearman {metrics['spearman']:.4f}   Pearson {metrics['pearson']:.4f}")
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


def write_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Write metrics as JSON, where undefined ones are null."""
    plain = {name: None if math.isnan(value) else value for name, value in metrics.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def write_predictions(path: Path, pairs: TextDataset, scores: NDArray[np.float32], threshold: float | None) -> None:
    """Write text, text, label, score and decision (1 match, 0 none, empty without a stored threshold)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        print("text1", "text2", "label", "score", "decision", sep="\t", file=file)
        for row, score in zip(pairs.records.rows, scores, strict=True):
            matched = "" if threshold is None else int(float(score) >= threshold)
            texts = [text.translate(_NO_SEPARATORS) for text in row["texts"]]
            print(*texts, f"{row['label']:g}", f"{score:.6f}", matched, sep="\t", file=file)


if __name__ == "__main__":
    run(main)
