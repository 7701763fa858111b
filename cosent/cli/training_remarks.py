"""The messages of a training run: how it understood data and model, problems of the data, and the results."""

import json
from itertools import combinations

import numpy as np
import torch

from cosent import CosentTrainer, CosentTrainingArguments, SentenceBert, TextDataset
from cosent.cli.showing import example_pair, language_gap, show_interval
from cosent.cli.training_data import Splits, eval_name
from cosent.data.formats import FORMATS
from cosent.data.leaks import check_leaks
from cosent.data.lint import Split, check_split
from cosent.data.streams import TextStream
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.decide import describe_decision, describe_probability
from cosent.evaluation.evaluators import Evaluation, is_lower_better
from cosent.evaluation.report.changes import CHOSEN_HERE, changes, chosen_note
from cosent.model.decision import Decision

_SHOWN_EXAMPLES = 3
MOST_CHECKED = 300_000  # most examples that are checked before training, which takes a few seconds


def describe(splits: Splits, model: SentenceBert, args: CosentTrainingArguments) -> None:
    """Print how the data and the model were understood, before training starts."""
    for texts, label in splits.train.head(_SHOWN_EXAMPLES):
        shown = f"{label:g}" if isinstance(label, float) else label
        print("  " + "  |  ".join(map(repr, texts)) + ("" if label is None else f"  ->  {shown}"))
    if isinstance(splits.train, TextStream):
        print(f"train: a stream of {FORMATS[splits.train.data_format].noun} of {splits.train.name}")
    for name, data in splits.by_name.items():
        print(f"{name}: {about_data(data, model)}")
    gaps = (language_gap(data, model) for data in splits.by_name.values())
    print(next((f"\n{gap}\n" for gap in gaps if gap), ""), end="")
    print(f"model: {about_model(model, args)}")
    if torch.cuda.device_count() > 1 and args.world_size == 1:
        gpus = torch.cuda.device_count()
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} -m cosent train ...")


def about_data(data: TextDataset, model: SentenceBert) -> str:
    """Describe how the data was understood, in one line."""
    report = data.records.report
    skipped = f", {report.num_bad:,} bad rows left out" if report.num_bad else ""
    return (
        f"{len(data):,} {FORMATS[data.data_format].noun} of {report.path}{skipped}; "
        f"{data.truncated_share:.2%} of texts cut at {model.max_length} tokens{contents(data)}"
    )


def about_model(model: SentenceBert, args: CosentTrainingArguments) -> str:
    """Describe how the model embeds, where and how precisely, in one line."""
    precision = "no autocast" if args.mixed_precision == "no" else f"{args.mixed_precision} autocast"
    return (
        f"{model.pooling_mode} pooling, {model.embedding_dim} dimensions, "
        f"{'unit length' if model.normalize_embeddings else 'not normalised'}; "
        f"{args.device}, {str(model.backbone.dtype).removeprefix('torch.')} weights, {precision}"
    )


def lint(splits: Splits, positive_label_min: float | None) -> None:
    """Print problems of the data in brief; `cosent check` says where they are."""
    datasets = list(splits.by_name.values())
    if sum(map(len, datasets)) > MOST_CHECKED:
        print(f"check: more than {MOST_CHECKED:,} examples are not checked here: `cosent check` does")
        return
    parts = [Split.of(data.records) for data in datasets]
    findings = [(part.path, finding) for part in parts for finding in check_split(part, positive_label_min)]
    for earlier, later in combinations(parts, 2):
        findings += [(later.path, finding) for finding in check_leaks(earlier, later, positive_label_min)]
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


def compare(
    before: dict[str, Evaluation],
    after: dict[str, Evaluation],
    trainer: CosentTrainer,
) -> None:
    """Print the metrics before and after training side by side."""
    rows = changes(before, after, selecting=step_chooser(trainer))
    if not rows:
        return
    confidence = f"{CONFIDENCE:.0%} interval" if any(row.interval for row in rows) else ""
    print(f"\n{'':34}{'before':>10}{'after':>10}   {confidence}".rstrip())
    for row in rows:
        mark = CHOSEN_HERE if row.is_chosen_here else " "
        print(f"{row.title:34}{row.before:10.4f}{row.after:10.4f}{mark}  {show_interval(row.interval)}".rstrip())
    for remark in (chosen_note(rows), no_better(before, after, trainer)):
        print(f"\n{remark}\n" if remark else "", end="")


def no_better(before: dict[str, Evaluation], after: dict[str, Evaluation], trainer: CosentTrainer) -> str:
    """Warn if the model is no better than before, by the metric that selects the best step; "" if it is."""
    split = eval_name(trainer.selecting)
    if split not in after:
        return ""
    metric = (trainer.args.metric_for_best_model or "").removeprefix("eval_").removeprefix(f"{trainer.selecting}_")
    old, new = (results[split].metrics.get(metric) for results in (before, after))
    if old is None or new is None or (old - new if is_lower_better(metric) else new - old) > 0:
        return ""
    return f"By the eval data's {metric} this model is no better than the untouched one."


def kept_step(trainer: CosentTrainer) -> int | None:
    """Return the step whose model was kept as the best by the eval data; None if the last one was kept."""
    return trainer.state.best_global_step or None if trainer.args.load_best_model_at_end else None


def step_chooser(trainer: CosentTrainer) -> str | None:
    """Return the name of the eval data that chose the step that was kept, from several; None if none did."""
    steps = {log["step"] for log in trainer.state.log_history if any(name.startswith("eval_") for name in log)}
    return eval_name(trainer.selecting) if kept_step(trainer) is not None and len(steps) > 1 else None


def about_decision(decision: Decision | None, evaluated: Evaluation | None) -> list[str]:
    """Describe the stored threshold, or say why there is none; nothing if the eval data is not of pairs."""
    if evaluated is None or evaluated.pairs is None:
        return []
    if decision is None:
        return ["No threshold is stored: --positive_label_min says from which label on a pair matches"]
    return [
        f"Two texts match from a cosine of {decision.threshold:.4f} on: the eval data's best by {decision.metric}, and "
        "stored.",
        f"On the eval data, which chose it: {describe_decision(evaluated.pairs, decision)}",
        *filter(None, [describe_probability(decision)]),
    ]


def conclude(
    folder: str, decision: Decision | None, evaluated: Evaluation | None, train: TextDataset | TextStream
) -> None:
    """Print where the model is and how to use it, with an example in the language of the training data."""
    for number, line in enumerate(about_decision(decision, evaluated)):
        print(line if number else f"\n{line}")
    print(f"\nThe model is in {folder}. To use it:\n")
    print("    from cosent import SentenceBert")
    print(f"    model = SentenceBert({json.dumps(folder)})")
    pair = example_pair(train)
    print(f"    model.predict({[pair]})" if decision is not None else f"    model.encode({list(pair)})")
