"""The run of `cosent compare`: score the same pairs with two models, print and write the differences."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cosent import SentenceBert, read_records
from cosent.cli.compare import CompareArguments
from cosent.cli.running import choose_device
from cosent.data.datasets import Records
from cosent.data.splits import component_of_examples
from cosent.errors import UserError
from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.comparison import Difference, McNemar, disagreements, mcnemar, paired_differences
from cosent.evaluation.degeneracy import warnings_of_clusters
from cosent.evaluation.evaluators import EvaluationOptions, evaluate
from cosent.evaluation.scored import ScoredPairs
from cosent.files import write_json
from cosent.inference.predictions import tsv_line
from cosent.model.checkpoint import read_settings
from cosent.progress import is_watched

SHOWN_PAIRS = 5


def compare(first_name: str, second_name: str, args: CompareArguments) -> None:
    """Score the pairs with both models, compare, print and write the results."""
    records = read_records(args.test_data_path, **args.reading_options | {"data_format": "pairs"})
    if args.positive_label_min is None:
        args.positive_label_min = common_minimum([first_name, second_name])
    first, second = (scored(name, records, args) for name in (first_name, second_name))
    folder = Path(args.output_dir or default_folder(first_name, second_name, args.test_data_path))
    folder.mkdir(parents=True, exist_ok=True)
    differences = paired_differences(first, second, num_resamples=args.num_resamples, seed=args.seed)
    has_decisions = first.threshold is not None and second.threshold is not None and first.matches is not None
    test = mcnemar(first, second) if has_decisions else None
    print(f"A: {first_name}\nB: {second_name}\non {len(records):,} pairs of {args.test_data_path}\n")
    report(differences, test)
    for warning in warnings_of_clusters(first.clusters):
        print(f"\n{warning}")
    order = disagreements(first, second)
    report_disagreements(records, first, second, order)
    about = {"first": first_name, "second": second_name, "data": args.test_data_path, "n": len(records)}
    write(folder, about, differences, test)
    write_disagreements(folder / "disagreements.tsv", records, first, second, order)
    print(f"\nWritten to {folder}: comparison.json and disagreements.tsv")


def default_folder(*paths: str) -> str:
    """Return the default folder for results, named after the models and the data."""
    return f"output/compare-{'-'.join(Path(path).absolute().name for path in paths)}"


def report_disagreements(
    records: Records, first: ScoredPairs, second: ScoredPairs, order: Sequence[int] | NDArray[np.int64]
) -> None:
    """Print the pairs that the models rank most differently."""
    print(f"\nWhere they disagree most, by rank among all {len(records):,} pairs (1 is the highest score):\n")
    ranks = [rankdata(-pairs.scores) for pairs in (first, second)]
    for number in order[:SHOWN_PAIRS]:
        row = records.rows[int(number)]
        print(
            f"  A {first.scores[number]:.4f} (rank {ranks[0][number]:.0f})   "
            f"B {second.scores[number]:.4f} (rank {ranks[1][number]:.0f})   label {row['label']:g}"
        )
        print("      " + "   |   ".join(row["texts"]))


def common_minimum(names: list[str]) -> float | None:
    """Return the lowest label of a match that the models store; both are measured by the same truth."""
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
    """Score the pairs with a model, and decide them by its own threshold."""
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
    # tokenizers may treat different texts as equal, so clusters are computed from the texts themselves
    return replace(pairs, clusters=component_of_examples(list(records.texts)))


def report(differences: dict[str, Difference], test: McNemar | None) -> None:
    """Print both models' metrics and their differences."""
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
        print("`cosent calibrate` chooses for a model that has none.")
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
    """Write all pairs, those that the models rank most differently first."""
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
