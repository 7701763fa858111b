"""Choose a model's threshold anew, and fit its probabilities, on labelled pairs: no training."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from command_line import choose_device, parse, run

from cosent import SentenceBert, load_data
from cosent.errors import UserError
from cosent.evaluation.decide import decide, describe_decision
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import EvaluationOptions, evaluate
from cosent.evaluation.metrics import calibration_errors, decision
from cosent.evaluation.scored import ScoredPairs
from cosent.model.checkpoint import Decision, write_training
from cosent.progress import is_watched
from cosent.training.arguments import DecisionArguments, ReadingArguments


@dataclass(kw_only=True)
class CalibrateArguments(ReadingArguments):
    """What to calibrate, and on what."""

    model_name_or_path: str = field(metadata={"help": "The model's folder; its cosent_config.json is written anew."})
    data_path: str = field(
        metadata={"help": "Labelled pairs, such as the model will meet, not those it was trained on."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the checkpoint to run."})
    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Score, choose, say what changes, store."""
    args, decision_args = parse(CalibrateArguments, DecisionArguments)
    if Path(args.model_name_or_path).is_symlink():
        raise UserError(f"{args.model_name_or_path} is a link to a folder of others: copy it first (cp -rL)")
    if not Path(args.model_name_or_path).is_dir():
        raise UserError(f"{args.model_name_or_path} is no folder: what is chosen is stored in the model's own")
    model = SentenceBert(
        args.model_name_or_path, trust_remote_code=args.trust_remote_code, device=choose_device(args.device)
    )
    data = load_data(args.data_path, model, **args.reading_options | {"data_format": "pairs"})
    stored = model.settings.decision
    if args.positive_label_min is None and stored is not None:
        args.positive_label_min = stored.positive_label_min
    options = EvaluationOptions(
        batch_size=args.batch_size, positive_label_min=args.positive_label_min, show_progress_bar=is_watched()
    )
    result = evaluate(model, data, options)
    pairs = result.pairs
    assert pairs is not None  # as these are pairs
    if pairs.matches is None:
        raise UserError("labels are graded: --positive_label_min says from which label on a pair matches")
    chosen = decide(pairs, args.data_path, **vars(decision_args), positive_label_min=args.positive_label_min)
    if chosen is None:
        raise UserError(f"{args.data_path}: all pairs match, or none does, so there is nothing to choose by")
    report(pairs, stored, chosen)
    if chosen.calibration is not None:
        pairs = replace(pairs, probabilities=chosen.calibration(pairs.scores))
    print(f"  that is, {describe_decision(pairs, chosen)}")
    for warning in warnings_of(replace(result, pairs=pairs)):
        print(f"\n{warning}")
    model.settings.decision = chosen
    write_training(args.model_name_or_path, model.settings)
    print(f"\nWritten to {args.model_name_or_path}/cosent_config.json")


def report(pairs: ScoredPairs, stored: Decision | None, chosen: Decision) -> None:
    """Print how good each decision is on these pairs."""
    assert pairs.matches is not None
    print(f"On these {len(pairs.scores):,} pairs, which chose the second one:\n")
    for name, choice in (("stored so far", stored), ("chosen now", chosen)):
        if choice is None:
            print(f"  {name}: nothing")
            continue
        metrics = decision(pairs.scores, pairs.matches, choice.threshold)
        if choice is not chosen and choice.calibration is not None:  # a curve's error on its own pairs says little
            metrics |= calibration_errors(choice.calibration(pairs.scores), pairs.matches)
        shown = "   ".join(f"{key} {value:.4f}" for key, value in metrics.items() if key != "threshold")
        curve = f", probabilities by {choice.calibration.method}" if choice.calibration else ", no probabilities"
        print(f"  {name}: threshold {choice.threshold:.4f} by {choice.metric}{curve}\n    {shown}")


if __name__ == "__main__":
    run(main)
