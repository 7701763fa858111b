"""The run of `cosent compare`: score the same pairs with two models, print and write the differences."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

import cosent
from cosent import SentenceBert, read_records
from cosent.cli.arguments import one_or_all
from cosent.cli.compare import CompareArguments
from cosent.cli.running import choose_device
from cosent.data.datasets import Records
from cosent.evaluation.comparison import Difference, McNemar
from cosent.evaluation.decide import is_chosen_on
from cosent.evaluation.degeneracy import warnings_of_clusters
from cosent.evaluation.scored import ScoredPairs
from cosent.files import write_json
from cosent.inference.predictions import tsv_line
from cosent.progress import is_watched

SHOWN_PAIRS = 5


def compare(first_name: str, second_name: str, args: CompareArguments) -> None:
    """Score the pairs with both models, compare, print and write the results."""
    records = read_records(one_or_all(args.test_data_path), **args.reading_options | {"data_format": "pairs"})
    device = choose_device(args.device)
    first, second = (
        SentenceBert(name, trust_remote_code=args.trust_remote_code, device=device)
        for name in (first_name, second_name)
    )
    comparison = cosent.compare(
        first,
        second,
        records,
        positive_label_min=args.positive_label_min,
        num_resamples=args.num_resamples,
        seed=args.seed,
        batch_size=args.batch_size,
        show_progress_bar=is_watched(),
    )
    folder = Path(args.output_dir or default_folder(first_name, second_name, args.test_data_path[0]))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"A: {first_name}\nB: {second_name}\non {len(records):,} pairs of {records.name}\n")
    print(comparison)
    if comparison.mcnemar is None:
        print("Decisions are compared where labels say what matches, and both models store a threshold, which")
        print("`cosent calibrate` chooses for a model that has none.")
    for model in {first_name: first, second_name: second}.values():
        decision = model.settings.decision
        if decision is not None and is_chosen_on(decision, records.name, len(records)):
            print(f"\nThese very pairs chose the threshold of {model.name_or_path}, so they flatter its decisions")
    for warning in warnings_of_clusters(comparison.first.clusters):
        print(f"\n{warning}")
    order = comparison.disagreements
    report_disagreements(records, comparison.first, comparison.second, order)
    about = {"first": first_name, "second": second_name, "data": records.name, "n": len(records)}
    write(folder, about, comparison.differences, comparison.mcnemar)
    write_disagreements(folder / "disagreements.tsv", records, comparison.first, comparison.second, order)
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
