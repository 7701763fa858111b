"""Fine-tune a sentence encoder on labelled pairs: python scripts/train.py --help, or train.py config.yaml."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from command_line import parse, run

from cosent import CosentTrainer, PairDataset, SentenceBert, load_pairs
from cosent.checkpoint import Decision, store_decision
from cosent.data.splits import split_by_component
from cosent.errors import UserError
from cosent.evaluation.evaluators import evaluate_pairs
from cosent.training.arguments import CosentTrainingArguments, DataArguments, LossArguments, ModelArguments


@dataclass(frozen=True)
class Splits:
    """The pairs to train on, to choose by, and to report on."""

    train: PairDataset
    eval: PairDataset | None
    test: PairDataset | None


def main() -> None:
    """Load, say what was understood, score, train, choose the best, calibrate, save, score again."""
    model_args, data_args, loss_args, args = parse(
        ModelArguments, DataArguments, LossArguments, CosentTrainingArguments
    )
    transformers.set_seed(args.seed)
    args.output_dir, args.resume_from_checkpoint = run_folder(args, model_args.model_name_or_path)
    model = SentenceBert(**vars(model_args))
    splits = load_splits(data_args, model, args.seed)
    if splits.eval is None and args.eval_strategy != "no":
        raise UserError("there is no eval data: give --eval_data_path, a larger --eval_fraction, or --eval_strategy no")
    describe(splits, model, args)
    before = score(model, splits, data_args, args)
    trainer = CosentTrainer(
        model,
        args,
        loss_args.build(),
        train_dataset=splits.train,
        eval_dataset=splits.eval,
        positive_label_min=data_args.positive_label_min,
    )
    result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics, combined=False)
    trainer.save_state()
    report_unordered(trainer.state.log_history)
    # what is measured from here on is the checkpoint as anybody will load it
    best = SentenceBert(args.output_dir, device=args.device)
    after = score(best, splits, data_args, args)
    if "eval" in after:
        trainer.save_metrics("eval", {f"eval_{key}": value for key, value in after["eval"].items()}, combined=False)
    threshold = calibrate(args.output_dir, data_args, after.get("eval"))
    if splits.test is not None:
        after["test"] = score_one(best, splits.test, data_args, args, threshold)
        trainer.save_metrics("test", {f"test_{key}": value for key, value in after["test"].items()}, combined=False)
    conclude(args.output_dir, before, after, threshold)


def run_folder(args: CosentTrainingArguments, model_name: str) -> tuple[str, str | None]:
    """Where this run goes, and the checkpoint that it goes on from: a resumed run stays in its folder."""
    resume = args.resume_from_checkpoint
    if resume and resume.lower() in ("true", "last"):
        found = sorted(Path(args.output_dir).glob("**/checkpoint-*"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"there is no checkpoint under {args.output_dir} to resume from")
        resume = str(found[-1])
    if resume and not (Path(resume) / "trainer_state.json").is_file():
        raise UserError(f"{resume} is no checkpoint to resume from: it has no trainer_state.json")
    if resume:
        return str(Path(resume).parent), resume
    if args.timestamp_output_dir:
        return str(Path(args.output_dir) / f"{Path(model_name).absolute().name}-{time.strftime('%Y%m%d-%H%M%S')}"), None
    return args.output_dir, None


def load_splits(data_args: DataArguments, model: SentenceBert, seed: int) -> Splits:
    """Read the files; without eval data, hold out training pairs that share no text with the others."""

    def load(path: str) -> PairDataset:
        return load_pairs(
            path,
            model,
            text_columns=data_args.text_column_pair,
            label_column=data_args.label_column,
            on_bad_rows=data_args.on_bad_rows,
        )

    train = load(data_args.train_data_path)
    held_out = load(data_args.eval_data_path) if data_args.eval_data_path else None
    if held_out is None and data_args.eval_fraction:
        pairs = list(zip(train.records["text1"], train.records["text2"], strict=True))
        kept, out = split_by_component(pairs, data_args.eval_fraction, seed)
        if len(out):
            print(f"Holding out {len(out):,} of {len(train):,} training pairs, which share no text with the others")
            train, held_out = train.select(kept), train.select(out)
    return Splits(train, held_out, load(data_args.test_data_path) if data_args.test_data_path else None)


def describe(splits: Splits, model: SentenceBert, args: CosentTrainingArguments) -> None:
    """Say how the data and the model were understood, before anything depends on it."""
    for row in splits.train.records.select(range(min(3, len(splits.train)))):
        print(f"  {row['text1']!r}  |  {row['text2']!r}  ->  {row['label']:g}")
    for name, pairs in vars(splits).items():
        if pairs is not None:
            skipped = f", {pairs.report.num_bad:,} bad rows left out" if pairs.report.num_bad else ""
            print(
                f"{name}: {len(pairs):,} pairs of {pairs.report.path}{skipped}; "
                f"{pairs.truncated_share:.2%} of texts cut at {model.max_length} tokens; {label_counts(pairs.labels)}"
            )
    precision = "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "no autocast"
    print(
        f"model: {model.pooling_mode} pooling, {model.embedding_dim} dimensions, "
        f"{'unit length' if model.normalize_embeddings else 'not normalised'}; "
        f"{args.device}, {str(model.backbone.dtype).removeprefix('torch.')} weights, {precision}"
    )
    if torch.cuda.device_count() > 1 and args.world_size == 1:
        gpus = torch.cuda.device_count()
        print(f"Using one of {gpus} GPUs; for all: torchrun --nproc_per_node {gpus} scripts/train.py ...")


def label_counts(labels: np.ndarray) -> str:
    """Few distinct labels are counted, many are summed up."""
    values, counts = np.unique(labels, return_counts=True)
    if len(values) > 12:
        low, middle, high = np.quantile(labels, [0, 0.5, 1])
        return f"labels from {low:g} to {high:g}, median {middle:g}"
    return "labels " + ", ".join(f"{value:g}: {count:,}" for value, count in zip(values, counts, strict=True))


def score(
    model: SentenceBert, splits: Splits, data_args: DataArguments, args: CosentTrainingArguments
) -> dict[str, dict[str, float]]:
    """Metrics of the held-out splits that there are."""
    held_out = {"eval": splits.eval, "test": splits.test}
    return {name: score_one(model, pairs, data_args, args) for name, pairs in held_out.items() if pairs is not None}


def score_one(
    model: SentenceBert,
    pairs: PairDataset,
    data_args: DataArguments,
    args: CosentTrainingArguments,
    threshold: float | None = None,
) -> dict[str, float]:
    """Metrics of one split."""
    return evaluate_pairs(
        model,
        pairs.tokens,
        batch_size=args.per_device_eval_batch_size,
        positive_label_min=data_args.positive_label_min,
        threshold=threshold,
    ).metrics


def calibrate(folder: str, data_args: DataArguments, metrics: dict[str, float] | None) -> float | None:
    """Store the eval data's most accurate threshold in the checkpoint, where labels say what matches."""
    if metrics is None or "best_threshold" not in metrics:
        return None
    decision = Decision(
        threshold=metrics["best_threshold"],
        metric="accuracy",
        value=metrics["best_accuracy"],
        calibrated_on=data_args.eval_data_path or f"{data_args.eval_fraction:g} of {data_args.train_data_path}",
        num_pairs=int(metrics["n"]),
        positive_label_min=data_args.positive_label_min,
    )
    store_decision(folder, decision)
    return decision.threshold


def report_unordered(log_history: list[dict[str, float]]) -> None:
    """Say how many batches held no two labels to rank, if any did."""
    logs = [log for log in log_history if "unordered_batches" in log]
    share = float(np.mean([log["unordered_batches"] for log in logs])) if logs else 0.0
    if share:
        print(f"{share:.1%} of batches held no two different labels and taught nothing; larger batches help")


def conclude(
    folder: str,
    before: dict[str, dict[str, float]],
    after: dict[str, dict[str, float]],
    threshold: float | None,
) -> None:
    """Print the scores before and after, and where the model is."""
    print(f"\n{'':24}{'before':>10}{'after':>10}")
    for split in after:
        for metric in ("spearman", "pearson", "best_accuracy", "average_precision", "roc_auc"):
            if metric in after[split]:
                name = f"{split} {metric.replace('_', ' ')}"
                print(f"{name:24}{before[split][metric]:10.4f}{after[split][metric]:10.4f}")
    if threshold is not None:
        print(f"\nThreshold {threshold:.4f} was chosen on the eval data and is stored.")
    if "accuracy" in after.get("test", {}):
        print(f"test accuracy at the stored threshold: {after['test']['accuracy']:.4f}")
    print(f"\nThe model is in {folder}. To use it:\n")
    print("    from cosent import SentenceBert")
    print(f"    model = SentenceBert({json.dumps(folder)})")
    example = [("How do I reset my password?", "I forgot my password")]
    print(f"    model.predict({example})" if threshold is not None else f"    model.encode({list(example[0])})")


if __name__ == "__main__":
    run(main)
