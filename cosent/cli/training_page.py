"""The page of a training run: its results, curves, data and settings."""

import torch
import transformers

from cosent import CosentTrainer, SentenceBert
from cosent.cli.training_data import Splits, eval_name
from cosent.cli.training_remarks import (
    about_data,
    about_decision,
    about_model,
    batches,
    kept_step,
    no_better,
    step_chooser,
)
from cosent.data.formats import FORMATS
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.report import Report, TrainingRun, training_report
from cosent.evaluation.report.changes import changes
from cosent.version import __version__

_SHOWN_EXAMPLES = 3


def training_page(
    trainer: CosentTrainer,
    best: SentenceBert,
    splits: Splits,
    before: dict[str, Evaluation],
    after: dict[str, Evaluation],
    command: str,
) -> Report:
    """Make the page of a training run.

    Args:
        trainer: the trainer, after training.
        best: the model that was kept, with its decision.
        splits: the data.
        before: evaluations of the untouched model, by split.
        after: evaluations of the kept model.
        command: the command that starts this run again.
    """
    kept = kept_step(trainer)
    worse = no_better(before, after, trainer)
    warnings = [f"{split}: {warning}" for split, result in after.items() for warning in warnings_of(result)]
    run = TrainingRun(
        outcome=[
            *outcome(trainer, kept),
            *about_decision(best.settings.decision, after.get(eval_name(trainer.selecting))),
        ],
        warnings=[*([worse] if worse else []), *warnings],
        changes=changes(before, after, selecting=step_chooser(trainer)),
        data={name: about_data(data, best) for name, data in splits.by_name.items()},
        examples=splits.train.head(_SHOWN_EXAMPLES),
        settings=settings(trainer, best, splits, command),
    )
    name = str(trainer.args.output_dir)
    return training_report(trainer.state.log_history, model_name=name, kept_step=kept, run=run)


def outcome(trainer: CosentTrainer, kept: int | None) -> list[str]:
    """Describe which step was kept, and why."""
    steps = f"{trainer.state.global_step:,}"
    if kept is None:
        return [f"Kept the model after the last of {steps} steps."]
    metric = (trainer.args.metric_for_best_model or "").removeprefix("eval_").replace("_", " ")
    return [f"Kept step {kept:,} of {steps}, the best by the eval data's {metric}, {trainer.state.best_metric:.4f}."]


def settings(trainer: CosentTrainer, best: SentenceBert, splits: Splits, command: str) -> dict[str, str]:
    """Describe the settings that decide a run's result, by name."""
    args, state = trainer.args, trainer.state
    loss = dict(best.settings.loss or {})
    options = "".join(f", {name} {value}" for name, value in loss.items() if name != "name")
    warmup = f"{args.warmup_steps:.0%} of the steps" if 0 < args.warmup_steps < 1 else f"{args.warmup_steps:g} steps"
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    epochs = f"{state.epoch or 0:.4g} {'epoch' if state.epoch == 1 else 'epochs'}"
    seconds = next((log["train_runtime"] for log in reversed(state.log_history) if "train_runtime" in log), None)
    return {
        "fine-tuned from": best.settings.base_model or "",
        "loss": f"{loss.get('name', type(trainer.loss).__name__)}{options}",
        "model": f"{about_model(best, args)}; up to {best.max_length:,} tokens",
        "batches": batches(args, FORMATS[splits.train.data_format].noun).removeprefix("batches: "),
        "length": f"{epochs}, {state.global_step:,} of {state.max_steps:,} steps",
        "learning rate": f"{args.learning_rate:g}, {schedule} schedule, warmup of {warmup}",
        "weight decay": f"{args.weight_decay:g}",
        "seed": str(args.seed),
        **({} if seconds is None else {"time": f"{seconds:,.0f} s of training and its evaluations"}),
        "versions": f"cosent {__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
        "command": command,
    }
