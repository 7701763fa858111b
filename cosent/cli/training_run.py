"""The run of `cosent train`: score, train, keep the best model, choose its threshold, score again."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import transformers

from cosent import CosentTrainer, CosentTrainingArguments, SentenceBert, TextDataset
from cosent.cli.arguments import DataArguments
from cosent.cli.run_folder import begin_folder, check_same_loss, end_folder, held_folder, run_folder
from cosent.cli.train import TrainArguments
from cosent.cli.training_data import Splits, eval_name, load_splits
from cosent.cli.training_page import training_page
from cosent.cli.training_remarks import (
    batches,
    compare,
    conclude,
    describe,
    kept_step,
    lint,
    report_unordered,
)
from cosent.data.formats import FORMATS
from cosent.distributed import first_rank_first, on_first_rank
from cosent.errors import UserError
from cosent.evaluation.decide import DecisionOptions, decide
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation, EvaluationOptions, evaluate, stored_options
from cosent.files import write_json
from cosent.losses import Loss


def train(given: TrainArguments, command: str) -> None:
    """Load and describe the data, score, train, keep the best model, calibrate, save, score again.

    Args:
        given: all flags.
        command: the command that starts this run again.
    """
    transformers.set_seed(given.training.seed)
    is_first = given.training.process_index == 0  # reading it also initialises torch.distributed
    loss = begin(given, command)
    is_new = given.training.timestamp_output_dir and not given.training.resume_from_checkpoint
    with held_folder(Path(given.training.output_dir), is_new=is_new) if is_first else nullcontext():
        _train(given, loss, command)


def _train(given: TrainArguments, loss: Loss, command: str) -> None:
    args = given.training
    is_first = args.process_index == 0
    model = SentenceBert(**vars(given.model), device=args.device)
    splits = load(given, loss, model)
    describe(splits, model, args)
    if is_first:
        lint(splits, given.data.positive_label_min)
    evaluation = evaluation_options(given.data, splits, args)
    decision = DecisionOptions(**vars(given.decision))
    trainer = CosentTrainer(
        model,
        args,
        loss,
        train_dataset=splits.train,
        eval_dataset=splits.evals,
        evaluation=evaluation,
        decision=decision,
    )
    print(batches(trainer.args, FORMATS[splits.train.data_format].noun))
    if is_first:
        begin_folder(Path(args.output_dir), command, resumes=bool(args.resume_from_checkpoint))
    before = score(model, splits, replace(evaluation, num_resamples=0), decision, trainer.selecting)
    fit(trainer)
    # the saved checkpoint is evaluated as any user would load it; its fingerprint says that it is the trained model
    best = SentenceBert(args.output_dir, device=args.device, trust_remote_code=given.model.trust_remote_code)
    known = {} if trainer.final_evaluation is None else {eval_name(trainer.selecting): trainer.final_evaluation}
    after = score(best, splits, evaluation, decision, trainer.selecting, known)
    store(trainer, best, splits, before, after, command)
    compare(before, after, trainer)
    for split, result in after.items():
        for warning in warnings_of(result):
            print(f"\n{split}: {warning}")
    conclude(args.output_dir, best.settings.decision, after.get(eval_name(trainer.selecting)), splits.train)


def begin(given: TrainArguments, command: str) -> Loss:
    """Determine the run's folder and the checkpoint to resume from, and build the loss."""
    args = given.training
    loss = given.loss.build()
    args.output_dir, args.resume_from_checkpoint = on_first_rank(
        lambda: run_folder(args, given.model.model_name_or_path, command)
    )
    if args.resume_from_checkpoint:
        check_same_loss(args.resume_from_checkpoint, loss)
        print(f"Going on from {args.resume_from_checkpoint}")
    return loss


def load(given: TrainArguments, loss: Loss, model: SentenceBert) -> Splits:
    """Read the data, and check that it suits the flags."""
    with first_rank_first():
        splits = load_splits(given.data, loss, model, given.training.seed)
    if splits.eval is None and given.training.eval_strategy != "no":
        raise UserError("there is no eval data: give --eval_data_path or --eval_fraction, or --eval_strategy no")
    if given.decision.threshold_metric and (splits.eval is None or splits.eval.data_format != "pairs"):
        raise UserError("--threshold_metric chooses a threshold on eval data of pairs, which there is none of")
    return splits


def fit(trainer: CosentTrainer) -> None:
    """Train, and save the best model on the first rank."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.args.process_index == 0:
        write_json(Path(trainer.args.output_dir) / "train_results.json", result.metrics)
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()  # until the first rank has written
    report_unordered(trainer.state.log_history)
    if (step := kept_step(trainer)) is not None:
        print(f"Kept the best of {trainer.state.global_step} steps: step {step}")


def store(
    trainer: CosentTrainer,
    best: SentenceBert,
    splits: Splits,
    before: dict[str, Evaluation],
    after: dict[str, Evaluation],
    command: str,
) -> None:
    """Write the metrics and the page beside the model."""
    trainer.accelerator.wait_for_everyone()  # until all ranks have read the files that are now overwritten
    if trainer.args.process_index > 0:
        return
    folder = Path(trainer.args.output_dir)
    for split, result in after.items():
        metrics = {**result.metrics, **({"intervals": result.intervals} if result.intervals else {})}
        named = {f"{split}_{name}": value for name, value in metrics.items()}
        write_json(folder / f"{split}_results.json", named)
    end_folder(folder, training_page(trainer, best, splits, before, after, command))


def evaluation_options(data_args: DataArguments, splits: Splits, args: CosentTrainingArguments) -> EvaluationOptions:
    """Choose how to evaluate held-out data; neighbours of classes are searched in the training data."""
    indexed = splits.train.data_format == "classes" and data_args.knn_index == "train"
    return EvaluationOptions(
        batch_size=args.per_device_eval_batch_size,
        positive_label_min=data_args.positive_label_min,
        index=splits.train if indexed and isinstance(splits.train, TextDataset) else None,
        num_neighbors=data_args.num_neighbors,
        num_resamples=data_args.num_resamples,
    )


def score(
    model: SentenceBert,
    splits: Splits,
    options: EvaluationOptions,
    decision_options: DecisionOptions,
    selecting: str,
    known: Mapping[str, Evaluation] | None = None,
) -> dict[str, Evaluation]:
    """Evaluate on the held-out data; the threshold that the model stores, or that the eval pairs choose, decides.

    Args:
        model: the model.
        splits: the data.
        options: how to evaluate.
        decision_options: how to choose a threshold if the model stores none.
        selecting: name of the eval data that chooses it.
        known: results that are known already, by name.
    """
    results = dict(known or {})
    name = eval_name(selecting)
    stored = stored_options(model)
    threshold, calibration = stored.threshold, stored.calibration
    if selecting in splits.evals:
        results[name] = results.get(name) or evaluate(model, splits.evals[selecting], options)
        pairs = results[name].pairs
        least = options.positive_label_min
        if pairs is not None and threshold is None:
            decision = decide(pairs, "", **vars(decision_options), positive_label_min=least)
            threshold, calibration = (decision.threshold, decision.calibration) if decision else (None, None)
    options = replace(options, threshold=threshold, calibration=calibration)
    return {
        split: results[split] if split in results else evaluate(model, data, options)
        for split, data in splits.held_out.items()
    }
