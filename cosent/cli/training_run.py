"""What `cosent train` does: scores, trains, keeps the best, chooses its threshold, scores again."""

from dataclasses import replace
from pathlib import Path

import transformers

from cosent import CosentTrainer, CosentTrainingArguments, SentenceBert
from cosent.cli.arguments import DataArguments, DecisionArguments
from cosent.cli.run_folder import begin_folder, check_same_loss, end_folder, run_folder
from cosent.cli.train import TrainArguments
from cosent.cli.training_data import Splits, load_splits
from cosent.cli.training_remarks import batches, compare, conclude, describe, lint, report_unordered
from cosent.data.formats import FORMATS
from cosent.distributed import first_rank_first, on_first_rank
from cosent.errors import UserError
from cosent.evaluation.decide import decide
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation, EvaluationOptions, evaluate
from cosent.evaluation.report import training_report
from cosent.files import write_json
from cosent.losses import Loss
from cosent.model.checkpoint import Decision


def train(given: TrainArguments, command: str) -> None:
    """Load, say what was understood, score, train, choose the best, calibrate, save, score again.

    Args:
        given: all flags.
        command: how this run can be begun again.
    """
    args = given.training
    transformers.set_seed(args.seed)
    is_first = args.process_index == 0  # asking also lets the ranks talk to each other
    loss = begin(given, command)
    model = SentenceBert(**vars(given.model), device=args.device)
    splits = load(given, loss, model)
    describe(splits, model, args)
    if is_first:
        lint(splits, given.data.positive_label_min)
    evaluation = evaluation_options(given.data, splits, args)
    trainer = CosentTrainer(
        model, args, loss, train_dataset=splits.train, eval_dataset=splits.eval, evaluation=evaluation
    )
    print(batches(trainer.args, FORMATS[splits.train.data_format].noun))
    if is_first:
        begin_folder(Path(args.output_dir), command)
    before, _ = score(model, splits, evaluation, given.data, given.decision)
    fit(trainer)
    # what is measured from here on is the checkpoint as anybody will load it
    best = SentenceBert(args.output_dir, device=args.device, trust_remote_code=given.model.trust_remote_code)
    evaluation = replace(evaluation, num_resamples=given.data.num_resamples)
    after, best.settings.decision = score(best, splits, evaluation, given.data, given.decision)
    store(trainer, best, after)
    compare(before, after, trainer.args)
    for split, result in after.items():
        for warning in warnings_of(result):
            print(f"\n{split}: {warning}")
    conclude(args.output_dir, best.settings.decision, after.get("eval"))


def begin(given: TrainArguments, command: str) -> Loss:
    """Settle the run's folder and what it goes on from, and build the loss."""
    args = given.training
    args.output_dir, args.resume_from_checkpoint = on_first_rank(
        lambda: run_folder(args, given.model.model_name_or_path, command)
    )
    loss = given.loss.build()
    if args.resume_from_checkpoint:
        check_same_loss(args.resume_from_checkpoint, loss)
    return loss


def load(given: TrainArguments, loss: Loss, model: SentenceBert) -> Splits:
    """Read the data, if it is what the flags need."""
    with first_rank_first():
        splits = load_splits(given.data, loss, model, given.training.seed)
    if splits.eval is None and given.training.eval_strategy != "no":
        raise UserError("there is no eval data: give --eval_data_path or --eval_fraction, or --eval_strategy no")
    if given.decision.threshold_metric and (splits.eval is None or splits.eval.data_format != "pairs"):
        raise UserError("--threshold_metric chooses a threshold on eval data of pairs, which there is none of")
    return splits


def fit(trainer: CosentTrainer) -> None:
    """Train, keep the best, save it on the first rank."""
    result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.args.process_index == 0:
        write_json(Path(trainer.args.output_dir) / "train_results.json", result.metrics)
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()  # until the first rank has written
    report_unordered(trainer.state.log_history)
    if trainer.state.best_global_step:
        print(f"Kept the best of {trainer.state.global_step} steps: step {trainer.state.best_global_step}")


def store(trainer: CosentTrainer, best: SentenceBert, after: dict[str, Evaluation]) -> None:
    """Write what was measured and decided beside the model."""
    trainer.accelerator.wait_for_everyone()  # until all have read what is written now
    if trainer.args.process_index > 0:
        return
    folder = Path(trainer.args.output_dir)
    for split, result in after.items():
        metrics = {**result.metrics, **({"intervals": result.intervals} if result.intervals else {})}
        named = {f"{split}_{name}": value for name, value in metrics.items()}
        write_json(folder / f"{split}_results.json", named)
    best.save_settings(folder)
    training_report(trainer.state.log_history, model_name=str(folder)).write(folder, "training")
    end_folder(folder)


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
