"""Fine-tune a sentence encoder: python scripts/train.py --help, or train.py config.yaml."""

import json
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import transformers
from command_line import NOUNS, parse, run, show_interval, unknown_tokens
from run_folder import begin_folder, check_same_loss, end_folder, run_folder
from transformers import TrainingArguments

from cosent import CosentTrainer, SentenceBert, TextDataset
from cosent.data.datasets import Records, read_records
from cosent.data.layouts import DataFormat
from cosent.data.lint import Split, check_leaks, check_split
from cosent.data.splits import split_by_component
from cosent.distributed import first_rank_first, on_first_rank
from cosent.errors import UserError
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.decide import decide, describe_decision
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import LOWER_IS_BETTER, Evaluation, EvaluationOptions, evaluate
from cosent.evaluation.report import training_report
from cosent.model.checkpoint import Decision
from cosent.training.arguments import (
    CosentTrainingArguments,
    DataArguments,
    DecisionArguments,
    LossArguments,
    ModelArguments,
)


@dataclass(frozen=True)
class Splits:
    """What to train on, to choose by, and to report on."""

    train: TextDataset
    eval: TextDataset | None
    test: TextDataset | None


# What each loss learns from where nobody says; infonce takes sentences, triplets, and the pairs that match.
FORMAT_OF_LOSS: dict[str, DataFormat] = {"cosent": "pairs", "angle": "pairs", "batch_hard_triplet": "classes"}
MOST_CHECKED = 300_000  # examples that are looked through before training, which takes some seconds
SHOWN_METRICS = (
    *("spearman", "pearson", "average_precision", "roc_auc", "best_accuracy", "accuracy", "f1", "mcc", "ece", "brier"),
    *("triplet_accuracy", "mean_margin", "recall_at_1", "recall_at_10", "mrr"),
    *("nn_accuracy", "knn_accuracy", "map_at_r"),
    *("alignment", "uniformity", "alignment_plus_uniformity", "effective_rank"),
)


def main() -> None:
    """Load, say what was understood, score, train, choose the best, calibrate, save, score again."""
    model_args, data_args, loss_args, decision_args, args = parse(
        ModelArguments, DataArguments, LossArguments, DecisionArguments, CosentTrainingArguments
    )
    transformers.set_seed(args.seed)
    is_first = args.process_index == 0  # asking also lets the ranks talk to each other
    args.output_dir, args.resume_from_checkpoint = on_first_rank(
        lambda: run_folder(args, model_args.model_name_or_path)
    )
    loss = loss_args.build()
    if args.resume_from_checkpoint:
        check_same_loss(args.resume_from_checkpoint, loss)
    model = SentenceBert(**vars(model_args), device=args.device)
    with first_rank_first():
        splits = load_splits(data_args, loss_args, model, args.seed)
    if splits.eval is None and args.eval_strategy != "no":
        raise UserError("there is no eval data: give --eval_data_path or --eval_fraction, or --eval_strategy no")
    if decision_args.threshold_metric and (splits.eval is None or splits.eval.data_format != "pairs"):
        raise UserError("--threshold_metric chooses a threshold on eval data of pairs, which there is none of")
    describe(splits, model, args)
    if is_first:
        lint(splits, data_args.positive_label_min)
    evaluation = evaluation_options(data_args, splits, args)
    trainer = CosentTrainer(
        model,
        args,
        loss,
        train_dataset=splits.train,
        eval_dataset=splits.eval,
        evaluation=evaluation,
    )
    print(batches(trainer.args, NOUNS[splits.train.data_format]))
    if is_first:
        begin_folder(Path(args.output_dir))
    before, _ = score(model, splits, evaluation, data_args, decision_args)
    train(trainer)
    # what is measured from here on is the checkpoint as anybody will load it
    best = SentenceBert(args.output_dir, device=args.device, trust_remote_code=model_args.trust_remote_code)
    evaluation = replace(evaluation, num_resamples=data_args.num_resamples)
    after, best.settings.decision = score(best, splits, evaluation, data_args, decision_args)
    for split, result in after.items():
        metrics = {**result.metrics, **({"intervals": result.intervals} if result.intervals else {})}
        trainer.save_metrics(split, {f"{split}_{name}": value for name, value in metrics.items()}, combined=False)
    trainer.accelerator.wait_for_everyone()  # until all have read what is written now
    if is_first:
        best.save_settings(args.output_dir)
        training_report(trainer.state.log_history, model_name=args.output_dir).write(args.output_dir, "training")
        end_folder(Path(args.output_dir))
    compare(before, after, trainer.args)
    for split, result in after.items():
        for warning in warnings_of(result):
            print(f"\n{split}: {warning}")
    conclude(args.output_dir, best.settings.decision, after.get("eval"))


def train(trainer: CosentTrainer) -> None:
    """Train, keep the best, save it on the first rank."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics, combined=False)
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()  # until the first rank has written
    report_unordered(trainer.state.log_history)
    if trainer.state.best_global_step:
        print(f"Kept the best of {trainer.state.global_step} steps: step {trainer.state.best_global_step}")


def load_splits(data_args: DataArguments, loss_args: LossArguments, model: SentenceBert, seed: int) -> Splits:
    """Read the files; without eval data, hold out training data that shares no text with the rest."""
    reading = data_args.reading_options
    if reading["data_format"] == "auto" and loss_args.loss in FORMAT_OF_LOSS:
        reading["data_format"] = FORMAT_OF_LOSS[loss_args.loss]
    train = read_records(data_args.train_data_path, likely_format="triplets", **reading)
    likely = train.data_format if train.data_format in ("classes", "triplets") else None
    reading = data_args.eval_reading_options(train.data_format)
    held_out, test = (
        read_records(path, likely_format=likely, **reading) if path else None
        for path in (data_args.eval_data_path, data_args.test_data_path)
    )
    if held_out is None and data_args.eval_fraction:
        train, held_out = hold_out(train, data_args.eval_fraction, seed)
    if data_args.max_train_samples is not None:
        train = train.sample(data_args.max_train_samples, seed)
    matching = train.data_format == "pairs" and loss_args.loss == "infonce"
    if data_args.use_negatives and not matching:
        raise UserError("--use_negatives is for --loss infonce on pairs: it takes those that do not match")
    if matching:
        train = train.to_triplets(
            use_negatives=data_args.use_negatives, positive_label_min=data_args.positive_label_min
        )
    return Splits(
        train.tokenize(model),
        held_out.tokenize(model) if held_out is not None else None,
        test.tokenize(model) if test is not None else None,
    )


def hold_out(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Split a fraction off; no text is on both sides."""
    kept, out = split_by_component(list(records.rows["texts"]), fraction, seed)
    if not len(out):
        raise UserError("no training data can be held out, since it all shares texts: give --eval_data_path")
    name = NOUNS[records.data_format]
    labelled = "label" in records.rows.column_names
    if labelled and len(np.unique(records.labels[out])) < 2:
        raise UserError(
            f"the {len(out):,} {name} that could be held out do not differ in their labels, so they choose nothing: "
            "give --eval_data_path, another --eval_fraction, or --eval_fraction 0 --eval_strategy no"
        )
    print(f"Holding out {len(out):,} of {len(records):,} {name}, which share no text with the others")
    return records.select(kept), records.select(out)


def describe(splits: Splits, model: SentenceBert, args: CosentTrainingArguments) -> None:
    """Say how the data and the model were understood, before anything depends on it."""
    rows = splits.train.records.rows
    for row in rows.select(range(min(3, len(rows)))):
        label = f"  ->  {row['label']:g}" if isinstance(row.get("label"), float) else f"  ->  {row.get('label')}"
        print("  " + "  |  ".join(map(repr, row["texts"])) + (label if "label" in row else ""))
    for name, data in vars(splits).items():
        if data is not None:
            report = data.records.report
            skipped = f", {report.num_bad:,} bad rows left out" if report.num_bad else ""
            print(
                f"{name}: {len(data):,} {NOUNS[data.data_format]} of {report.path}{skipped}; "
                f"{data.truncated_share:.2%} of texts cut at {model.max_length} tokens{contents(data)}"
                f"{unknown_tokens(data, model)}"
            )
    precision = "no autocast" if args.mixed_precision == "no" else f"{args.mixed_precision} autocast"
    print(
        f"model: {model.pooling_mode} pooling, {model.embedding_dim} dimensions, "
        f"{'unit length' if model.normalize_embeddings else 'not normalised'}; "
        f"{args.device}, {str(model.backbone.dtype).removeprefix('torch.')} weights, {precision}"
    )
    if torch.cuda.device_count() > 1 and args.world_size == 1:
        gpus = torch.cuda.device_count()
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} scripts/train.py ...")


def lint(splits: Splits, positive_label_min: float | None) -> None:
    """Say in short what is wrong with the data; check_data.py says where."""
    datasets = [data for data in (splits.train, splits.eval, splits.test) if data is not None]
    if sum(map(len, datasets)) > MOST_CHECKED:
        print(f"check: more than {MOST_CHECKED:,} examples are not checked here: scripts/check_data.py does")
        return
    parts = [Split.of(data.records) for data in datasets]
    findings = [(part.path, finding) for part in parts for finding in check_split(part, positive_label_min)]
    for earlier, later in combinations(parts, 2):
        findings += [(later.path, finding) for finding in check_leaks(earlier, later)]
    for path, finding in findings:
        print(f"check: {path}: {finding}")
    if findings:
        print("check: scripts/check_data.py with these files shows where, and what it does to a result")


def batches(args: CosentTrainingArguments, noun: str) -> str:
    """How many examples a loss compares, which is not how many an update sees."""
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
    """What there is to learn from: labels, classes or negatives. Few distinct labels are counted, many summed up."""
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


def evaluation_options(data_args: DataArguments, splits: Splits, args: CosentTrainingArguments) -> EvaluationOptions:
    """How held-out data is scored; classes are looked up in the training data."""
    indexed = splits.train.data_format == "classes" and data_args.knn_index == "train"
    return EvaluationOptions(
        batch_size=args.per_device_eval_batch_size,
        positive_label_min=data_args.positive_label_min,
        index=splits.train if indexed else None,
        num_neighbors=data_args.num_neighbors,
    )


def score(
    model: SentenceBert,
    splits: Splits,
    options: EvaluationOptions,
    data_args: DataArguments,
    decision_args: DecisionArguments,
) -> tuple[dict[str, Evaluation], Decision | None]:
    """Evaluate on the held-out splits that there are; what the eval pairs choose decides the test pairs."""
    results: dict[str, Evaluation] = {}
    decision = None
    if splits.eval is not None:
        results["eval"] = evaluate(model, splits.eval, options)
        pairs = results["eval"].pairs
        if pairs is not None:
            decision = decide(
                pairs,
                data_args.eval_data_path or f"{data_args.eval_fraction:g} of {data_args.train_data_path}",
                **vars(decision_args),
                positive_label_min=data_args.positive_label_min,
            )
        if decision is not None:
            options = replace(options, threshold=decision.threshold, calibration=decision.calibration)
    if splits.test is not None:
        results["test"] = evaluate(model, splits.test, options)
    return results, decision


def report_unordered(log_history: list[dict[str, float]]) -> None:
    """Say how many batches held no two labels to rank, if any did."""
    logs = [log for log in log_history if "unordered_batches" in log]
    share = float(np.mean([log["unordered_batches"] for log in logs])) if logs else 0.0
    if share:
        print(f"{share:.1%} of batches held no two different labels and taught nothing; larger batches help")


def compare(before: dict[str, Evaluation], after: dict[str, Evaluation], args: TrainingArguments) -> None:
    """Print the scores of the untouched and of the trained model side by side."""
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
    """Say where the model is, and how to use it."""
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


if __name__ == "__main__":
    run(
        main,
        if_lost="--resume_from_checkpoint last goes on from the last checkpoint; torchrun --max-restarts 3 does so "
        "by itself",
    )
