"""The messages of a training run: how it understood data and model, problems of the data, and the results."""

import json
from itertools import combinations

import numpy as np
import torch
from transformers import TrainingArguments

from cosent import CosentTrainingArguments, SentenceBert, TextDataset
from cosent.cli.showing import language_gap, show_interval
from cosent.cli.training_data import Splits
from cosent.data.formats import FORMATS
from cosent.data.lint import Split, check_leaks, check_split
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.decide import describe_decision
from cosent.evaluation.evaluators import LOWER_IS_BETTER, Evaluation
from cosent.model.decision import Decision

MOST_CHECKED = 300_000  # most examples that are checked before training, which takes a few seconds
SHOWN_METRICS = (
    *("spearman", "pearson", "average_precision", "roc_auc", "best_accuracy", "accuracy", "f1", "mcc", "ece", "brier"),
    *("triplet_accuracy", "mean_margin", "recall_at_1", "recall_at_10", "mrr"),
    *("nn_accuracy", "knn_accuracy", "map_at_r"),
    *("alignment", "uniformity", "alignment_plus_uniformity", "effective_rank"),
)


def describe(splits: Splits, model: SentenceBert, args: CosentTrainingArguments) -> None:
    """Print how the data and the model were understood, before training starts."""
    rows = splits.train.records.rows
    for row in rows.select(range(min(3, len(rows)))):
        label = f"  ->  {row['label']:g}" if isinstance(row.get("label"), float) else f"  ->  {row.get('label')}"
        print("  " + "  |  ".join(map(repr, row["texts"])) + (label if "label" in row else ""))
    for name, data in splits.by_name.items():
        report = data.records.report
        skipped = f", {report.num_bad:,} bad rows left out" if report.num_bad else ""
        print(
            f"{name}: {len(data):,} {FORMATS[data.data_format].noun} of {report.path}{skipped}; "
            f"{data.truncated_share:.2%} of texts cut at {model.max_length} tokens{contents(data)}"
        )
    gaps = (language_gap(data, model) for data in splits.by_name.values())
    print(next((f"\n{gap}\n" for gap in gaps if gap), ""), end="")
    precision = "no autocast" if args.mixed_precision == "no" else f"{args.mixed_precision} autocast"
    print(
        f"model: {model.pooling_mode} pooling, {model.embedding_dim} dimensions, "
        f"{'unit length' if model.normalize_embeddings else 'not normalised'}; "
        f"{args.device}, {str(model.backbone.dtype).removeprefix('torch.')} weights, {precision}"
    )
    if torch.cuda.device_count() > 1 and args.world_size == 1:
        gpus = torch.cuda.device_count()
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} -m cosent train ...")


def lint(splits: Splits, positive_label_min: float | None) -> None:
    """Print problems of the data in brief; `cosent check` says where they are."""
    datasets = list(splits.by_name.values())
    if sum(map(len, datasets)) > MOST_CHECKED:
        print(f"check: more than {MOST_CHECKED:,} examples are not checked here: `cosent check` does")
        return
    parts = [Split.of(data.records) for data in datasets]
    findings = [(part.path, finding) for part in parts for finding in check_split(part, positive_label_min)]
    for earlier, later in combinations(parts, 2):
        findings += [(later.path, finding) for finding in check_leaks(earlier, later)]
    for path, finding in findings:
        print(f"check: {path}: {finding}")
    if findings:
        print("check: `cosent check` with these files shows where, and what it does to a result")


def batches(args: CosentTrainingArguments, noun: str) -> str:
    """Describe how many examples the loss compares, which differs from the number in an update."""
    size, ranks, steps = args.per_device_train_batch_size, args.world_size, args.gradient_accumulation_steps
    compared = size * ranks if args.gather_across_devices else size
    parts = [f"batches: {compared:,} {noun} are compared with each other"]
    if ranks > 1:
        parts.append((f", {size:,}" if args.gather_across_devices else "") + f" on each of {ranks} ranks")
    for number, unit in ((args.micro_batch_tokens, "tokens"), (args.micro_batch_size, "examples")):
        if number:
            parts.append(f", embedded in pieces of {number:,} {unit}")
    if steps > 1:
        parts.append(f"; an update adds the gradients of {steps} such batches, and compares no more")
    return "".join(parts)


def contents(data: TextDataset) -> str:
    """Describe labels, classes or negatives; a few distinct labels are counted, many are summarised."""
    if data.data_format == "sentences":
        return ""
    if data.data_format == "triplets":
        negatives = data.num_texts - 2
        return f"; {negatives.min()} to {negatives.max()} hard negatives each, {negatives.mean():.2f} on average"
    values, counts = np.unique(data.records.labels, return_counts=True)
    if data.data_format == "classes":
        return f"; {len(values):,} classes of {counts.min():,} to {counts.max():,} texts"
    if len(values) > 12:
        low, middle, high = np.quantile(data.labels, [0, 0.5, 1])
        return f"; labels from {low:g} to {high:g}, median {middle:g}"
    return "; labels " + ", ".join(f"{value:g}: {count:,}" for value, count in zip(values, counts, strict=True))


def report_unordered(log_history: list[dict[str, float]]) -> None:
    """Print the share of batches without two different labels to rank, if any."""
    logs = [log for log in log_history if "unordered_batches" in log]
    share = float(np.mean([log["unordered_batches"] for log in logs])) if logs else 0.0
    if share:
        print(f"{share:.1%} of batches held no two different labels and taught nothing; larger batches help")


def compare(before: dict[str, Evaluation], after: dict[str, Evaluation], args: TrainingArguments) -> None:
    """Print the metrics before and after training side by side."""
    if not after:
        return
    confidence = f"{CONFIDENCE:.0%} interval" if any(result.intervals for result in after.values()) else ""
    print(f"\n{'':34}{'before':>10}{'after':>10}   {confidence}".rstrip())
    names = {name: f"{name} by eval threshold" for name in ("accuracy", "f1", "mcc")}
    for split, result in after.items():
        for metric in SHOWN_METRICS:
            if metric in result.metrics:
                name = names.get(metric, metric.replace("_", " "))
                values = f"{before[split].metrics[metric]:10.4f}{result.metrics[metric]:10.4f}"
                print(f"{split + ' ' + name:34}{values}   {show_interval(result.intervals.get(metric))}".rstrip())
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    old, new = (results["eval"].metrics.get(metric, 0) if "eval" in results else 0 for results in (before, after))
    if "eval" in after and (old - new if metric in LOWER_IS_BETTER else new - old) <= 0:
        print(f"\nBy the eval data's {metric} this model is no better than the untouched one.")


def conclude(folder: str, decision: Decision | None, evaluated: Evaluation | None) -> None:
    """Print where the model is and how to use it."""
    if decision is not None:
        print(
            f"\nTwo texts match from a cosine of {decision.threshold:.4f} on: the eval data's best by "
            f"{decision.metric}, and stored."
        )
        if evaluated is not None and evaluated.pairs is not None:
            print(f"On the eval data: {describe_decision(evaluated.pairs, decision)}")
    elif evaluated is not None and evaluated.pairs is not None:
        print("\nNo threshold is stored: --positive_label_min says from which label on a pair matches")
    print(f"\nThe model is in {folder}. To use it:\n")
    print("    from cosent import SentenceBert")
    print(f"    model = SentenceBert({json.dumps(folder)})")
    example = [("How do I reset my password?", "I forgot my password")]
    print(f"    model.predict({example})" if decision is not None else f"    model.encode({list(example[0])})")
