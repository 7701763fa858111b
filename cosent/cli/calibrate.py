"""Choose a new threshold and fit the probabilities of a model on labelled pairs, without training."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cosent.cli.arguments import BatchArguments, CheckpointArguments, DecisionArguments, ReadingArguments, one_or_all
from cosent.cli.parsing import FlagParser, require_files
from cosent.cli.running import choose_device, hush_libraries
from cosent.cli.sources import constant
from cosent.errors import UserError
from cosent.progress import is_watched

if TYPE_CHECKING:
    from cosent.evaluation.scored import ScoredPairs
    from cosent.model.decision import Decision
    from cosent.model.quantization import Precision
else:  # this module imports numpy
    Precision = constant("cosent.model.quantization", "Precision")


@dataclass(kw_only=True)
class CalibrateArguments(ReadingArguments, CheckpointArguments, BatchArguments):
    """Options of `cosent calibrate`."""

    data_path: list[str] = field(
        metadata={"help": "Labelled pairs like those that the model will be used on, not its training data."}
    )
    precision: Precision = field(
        default="float32",
        metadata={"help": "Precision of the embeddings that are compared."},
    )
    truncate_dim: int | None = field(
        default=None, metadata={"help": "Compare only the first dimensions. Default: all that the model keeps."}
    )


def main(arguments: Sequence[str]) -> None:
    """Check the arguments, then calibrate."""
    parser = FlagParser(
        "calibrate",
        [CalibrateArguments, DecisionArguments],
        description="Choose a new threshold for a model folder and fit its probabilities; nothing else changes.",
    )
    args, decision_args = parser.fill_from(arguments)
    if Path(args.model_name_or_path).is_symlink():
        raise UserError(f"{args.model_name_or_path} is a link to a folder of others: copy it first (cp -rL)")
    if not Path(args.model_name_or_path).is_dir():
        raise UserError(f"{args.model_name_or_path} is no folder: what is chosen is stored in the model's own")
    require_files(*args.data_path)
    hush_libraries()
    calibrate(args, decision_args)


def calibrate(args: CalibrateArguments, decision_args: DecisionArguments) -> None:
    """Score the pairs, choose a threshold, report the change, and store it."""
    from cosent import SentenceBert, load_data
    from cosent.evaluation.decide import DecisionOptions, describe_decision, fit_decision
    from cosent.evaluation.degeneracy import warnings_of
    from cosent.model.checkpoint import write_training

    model = SentenceBert(
        args.model_name_or_path, trust_remote_code=args.trust_remote_code, device=choose_device(args.device)
    )
    data = load_data(one_or_all(args.data_path), model, **args.reading_options | {"data_format": "pairs"})
    result, chosen = fit_decision(
        model,
        data,
        DecisionOptions(**vars(decision_args)),
        positive_label_min=args.positive_label_min,
        precision=args.precision,
        truncate_dim=args.truncate_dim,
        batch_size=args.batch_size,
        show_progress_bar=is_watched(),
    )
    pairs = result.pairs
    assert pairs is not None  # as these are pairs
    report(pairs, model.settings.decision, chosen)
    if chosen.calibration is not None:
        pairs = replace(pairs, probabilities=chosen.calibration(pairs.scores))
    print(f"  that is, {describe_decision(pairs, chosen)}")
    for warning in warnings_of(replace(result, pairs=pairs)):
        print(f"\n{warning}")
    model.settings.decision = chosen
    write_training(args.model_name_or_path, model.settings)
    print(f"\nWritten to {args.model_name_or_path}/cosent_config.json")


def report(pairs: "ScoredPairs", stored: "Decision | None", chosen: "Decision") -> None:
    """Print the metrics of the old and the new decision on these pairs."""
    from cosent.evaluation.metrics import calibration_errors, decision

    assert pairs.matches is not None
    print(f"On these {len(pairs.scores):,} pairs, which chose the second one:\n")
    for name, choice in (("stored so far", stored), ("chosen now", chosen)):
        if choice is None:
            print(f"  {name}: nothing")
            continue
        metrics = decision(pairs.scores, pairs.matches, choice.threshold)
        if choice is not chosen and choice.calibration is not None:  # the error of a curve on its own pairs says little
            metrics |= calibration_errors(choice.calibration(pairs.scores), pairs.matches)
        shown = "   ".join(f"{key} {value:.4f}" for key, value in metrics.items() if key != "threshold")
        curve = f", probabilities by {choice.calibration.method}" if choice.calibration else ", no probabilities"
        print(f"  {name}: threshold {choice.threshold:.4f} by {choice.metric}{curve}\n    {shown}")
