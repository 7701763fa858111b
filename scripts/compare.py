"""Compare two models on the same pairs: python scripts/compare.py A B --test_data_path T."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from command_line import choose_device, parse, run, write_json
from numpy.typing import NDArray
from scipy.stats import rankdata

from cosent import SentenceBert, read_records
from cosent.data.datasets import Records
from cosent.data.splits import component_of_examples
from cosent.errors import UserError
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.comparison import Difference, McNemar, disagreements, mcnemar, paired_differences
from cosent.evaluation.degeneracy import warnings_of_clusters
from cosent.evaluation.evaluators import EvaluationOptions, evaluate
from cosent.evaluation.scored import ScoredPairs
from cosent.inference.predictions import tsv_line
from cosent.model.checkpoint import read_settings
from cosent.progress import is_watched
from cosent.training.arguments import EvaluationArguments

SHOWN_PAIRS = 5


@dataclass(kw_only=True)
class CompareArguments(EvaluationArguments):
    """On what to compare, and where results go."""

    test_data_path: str = field(metadata={"help": "Labelled pairs that neither model was trained on."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Where comparison.json and disagreements.tsv go. Default: output/compare-<A>-<B>-<data>."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the checkpoints to run."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap."})
    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})
    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


def main() -> None:
    """Score with both, compare, print, write."""
    args, positional = parse(CompareArguments, positional=("models", "The two models: folders or hub ids."))
    if len(positional.models) != 2:
        raise UserError(f"two models are compared, not {len(positional.models)}")
    first_name, second_name = positional.models
    if not args.num_resamples:
        raise UserError("--num_resamples must be at least 1 here")
    records = read_records(args.test_data_path, **args.reading_options | {"data_format": "pairs"})
    if args.positive_label_min is None:
        args.positive_label_min = common_minimum(positional.models)
    first, second = (scored(name, records, args) for name in positional.models)
    names = [Path(name).absolute().name for name in (*positional.models, args.test_data_path)]
    folder = Path(args.output_dir or f"output/compare-{'-'.join(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    differences = paired_differences(first, second, num_resamples=args.num_resamples, seed=args.seed)
    has_decisions = first.threshold is not None and second.threshold is not None and first.matches is not None
    test = mcnemar(first, second) if has_decisions else None
    print(f"A: {first_name}\nB: {second_name}\non {len(records):,} pairs of {args.test_data_path}\n")
    report(differences, test)
    for warning in warnings_of_clusters(first.clusters):
        print(f"\n{warning}")
    order = disagreements(first, second)
    print(f"\nWhere they disagree most, by rank among all {len(records):,} pairs (1 is the highest score):\n")
    ranks = [rankdata(-pairs.scores) for pairs in (first, second)]
    for number in order[:SHOWN_PAIRS]:
        row = records.rows[int(number)]
        print(
            f"  A {first.scores[number]:.4f} (rank {ranks[0][number]:.0f})   "
            f"B {second.scores[number]:.4f} (rank {ranks[1][number]:.0f})   label {row['label']:g}"
        )
        print("      " + "   |   ".join(row["texts"]))
    about = {"first": first_name, "second": second_name, "data": args.test_data_path, "n": len(records)}
    write(folder, about, differences, test)
    write_disagreements(folder / "disagreements.tsv", records, first, second, order)
    print(f"\nWritten to {folder}: comparison.json and disagreements.tsv")


def common_minimum(names: list[str]) -> float | None:
    """The label from which on a pair matches, as the models store it: both are measured by one truth."""
    decisions = [read_settings(name).decision for name in names]
    stored = {decision.positive_label_min for decision in decisions if decision is not None}
    if len(stored) > 1:
        minima = ", ".join(
            f"{name}: {'labels are 0 and 1' if decision.positive_label_min is None else decision.positive_label_min}"
            for name, decision in zip(names, decisions, strict=True)
            if decision is not None
        )
        raise UserError(f"the models differ in what a match is ({minima}): give --positive_label_min")
    return stored.pop() if stored else None


def scored(name: str, records: Records, args: CompareArguments) -> ScoredPairs:
    """What a model says of the pairs, decided by its own threshold."""
    model = SentenceBert(name, trust_remote_code=args.trust_remote_code, device=choose_device(args.device))
    decision = model.settings.decision
    options = EvaluationOptions(
        batch_size=args.batch_size,
        positive_label_min=args.positive_label_min,
        threshold=decision.threshold if decision else None,
        calibration=decision.calibration if decision else None,
        show_progress_bar=is_watched(),
    )
    pairs = evaluate(model, records.tokenize(model), options).pairs
    assert pairs is not None  # as these are pairs
    # two tokenizers may take different texts for equal: what hangs together is told by the texts themselves
    return replace(pairs, clusters=component_of_examples(list(records.rows["texts"])))


def report(differences: dict[str, Difference], test: McNemar | None) -> None:
    """Print both models' metrics, and how far apart they are."""
    print(f"{'':20}{'A':>8}{'B':>10}{'B - A':>10}   {CONFIDENCE:.0%} interval        p")
    for name, difference in differences.items():
        values = f"{difference.first:8.4f}{difference.second:10.4f}{difference.value:+10.4f}"
        clear = " *" if difference.low > 0 or difference.high < 0 else ""
        is_known = math.isfinite(difference.p_value)
        ends = f"{difference.low:+.4f} to {difference.high:+.4f}   {difference.p_value:.3f}{clear}" if is_known else ""
        print(f"{name.replace('_', ' '):20}{values}   {ends}".rstrip())
    print("\n* the interval does not hold 0. Pairs that share a text were drawn together.")
    if test is None:
        print("Decisions are compared where labels say what matches, and both models store a threshold, which")
        print("scripts/calibrate.py chooses for a model that has none.")
        return
    print(
        f"\nMcNemar: A alone is right about {test.only_first:,} pairs, B alone about {test.only_second:,}; "
        f"p = {test.p_value:.3g}, if pairs were independent"
    )


def write(folder: Path, about: dict[str, object], differences: dict[str, Difference], test: McNemar | None) -> None:
    """Write the comparison as JSON."""
    content = {
        **about,
        "differences": {name: {**asdict(item), "difference": item.value} for name, item in differences.items()},
        "mcnemar": asdict(test) if test else None,
    }
    write_json(folder / "comparison.json", content)


def write_disagreements(
    path: Path, records: Records, first: ScoredPairs, second: ScoredPairs, order: NDArray[np.int64]
) -> None:
    """Write all pairs, those first that the models rank most differently."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        print(tsv_line("text1", "text2", "label", "score_a", "score_b", "decision_a", "decision_b"), file=file)
        for number in order:
            row = records.rows[int(number)]
            scores = [float(pairs.scores[number]) for pairs in (first, second)]
            thresholds = [pairs.threshold for pairs in (first, second)]
            decisions = [
                None if limit is None else int(score >= limit) for score, limit in zip(scores, thresholds, strict=True)
            ]
            print(tsv_line(*row["texts"], row["label"], *(round(x, 6) for x in scores), *decisions), file=file)


if __name__ == "__main__":
    run(main)
