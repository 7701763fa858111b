"""Checks data before training, and splits it so that no text is on two sides."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosent.data.formats import FORMATS
from cosent.data.leaks import check_leaks
from cosent.data.lint import Finding, Split, check_split, normalized
from cosent.data.readers import open_readers
from cosent.data.sources import Data
from cosent.data.splits import assign_by_component, component_of_examples
from cosent.errors import UserError

if TYPE_CHECKING:  # `datasets` takes seconds to import, and `cosent check` does without
    from cosent.data.datasets import Records


@dataclass(frozen=True)
class DataCheck:
    """What a check of data has found. Printed, it is a list of the findings with examples.

    Attributes:
        splits: the examples by name.
        findings: the findings by name of a split, or of two splits, "dev beside train".
    """

    splits: dict[str, Split]
    findings: dict[str, list[Finding]]

    def __str__(self) -> str:
        return "\n\n".join("\n".join(self.describe(name)) for name in self.findings)

    def describe(self, name: str) -> Iterator[str]:
        """Yield the lines about one split, or about two.

        Args:
            name: a key of the findings.
        """
        heading = name
        if (split := self.splits.get(name)) is not None:
            of = "" if name == split.path else f" of {split.path}"
            heading = f"{name}: {len(split):,} {FORMATS[split.data_format].noun}{of}"
        yield heading
        yield from describe_findings(self.findings[name])


def describe_findings(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of findings, with their effect and examples.

    Args:
        findings: the findings.
    """
    if not findings:
        yield "  nothing found"
    for finding in findings:
        yield f"  - {finding}\n      {finding.effect}"
        yield from (f"      {example}" for example in finding.examples)


def check_data(
    train: Data, dev: Data = None, test: Data = None, *, positive_label_min: float | None = None, **reading: Any
) -> DataCheck:
    """Check data for problems before training: repetitions, contradictions, damaged texts, and leaks between splits.

    Args:
        train: the training data: a path, a DataFrame, a dataset, a list, ... as in `read_records`.
        dev: the data that chooses the step and the threshold, if any.
        test: the data for the report, if any.
        positive_label_min: the lowest label of a match; 0/1 labels need none.
        reading: further arguments of `read_records`.

    Returns:
        The findings of each split, and of each two.

    Raises:
        DataError: if data cannot be used.
        TypeError: if data is of a type that is not taken.
    """
    usual = {"train": "train", "dev": "validation", "test": "test"}
    given = {name: data for name, data in {"train": train, "dev": dev, "test": test}.items() if data is not None}
    splits: dict[str, Split] = {}
    for name, data in given.items():
        likely = next((split.data_format for split in splits.values()), None)
        splits[name] = read_split(data, likely_format=likely, usual_split=usual[name], **reading)
    return check_splits(splits, positive_label_min)


def read_split(data: Data, *, likely_format: str | None = None, **reading: Any) -> Split:
    """Read all examples of some data into memory, with their places.

    Args:
        data: anything that `read_records` takes.
        likely_format: the format of rows with two unnamed fields; only that of texts with a class, or of triplets,
            helps.
        reading: further arguments of `read_records`.
    """
    if not isinstance(data, (str, Path)):
        from cosent.data.datasets import Records, TextDataset

        if isinstance(data, (Records, TextDataset)):
            return Split.of(data.records if isinstance(data, TextDataset) else data)
    likely = likely_format if likely_format in ("classes", "triplets") else None
    return Split.read(*open_readers(data, likely_format=likely, **reading))


def check_splits(splits: dict[str, Split], positive_label_min: float | None = None) -> DataCheck:
    """Check each split, and each two.

    Args:
        splits: the splits by name; what is trained on comes first.
        positive_label_min: the lowest label of a match; 0/1 labels need none.
    """
    findings = {name: check_split(split, positive_label_min) for name, split in splits.items()}
    trained_on = next(iter(splits), None)
    for earlier, later in combinations(splits, 2):
        is_trained_on = earlier == trained_on
        findings[f"{later} beside {earlier}"] = check_leaks(
            splits[earlier], splits[later], positive_label_min, is_trained_on=is_trained_on
        )
    return DataCheck(splits, findings)


def split_data(
    data: Data, fractions: Sequence[float] = (0.1, 0.1), *, seed: int = 42, **reading: Any
) -> tuple["Records", ...]:
    """Split examples so that no text is on two sides, not even one that differs only in case or punctuation.

    Args:
        data: the examples: a path, a DataFrame, a dataset, a list, ... as in `read_records`.
        fractions: the shares of the parts that are held out, such as dev and test; below 1 together.
        seed: seed of the random order.
        reading: further arguments of `read_records`.

    Returns:
        The training records, then those of each held-out part, in the order of the data. A part can be smaller than its
        share if examples share texts. Everything that takes data takes records.

    Raises:
        UserError: if the fractions leave nothing to train on, or a part would be empty.
        DataError: if the data cannot be used.
        TypeError: if the data is of a type that is not taken.
    """
    from cosent.data.datasets import read_records

    check_fractions(fractions)
    records = read_records(data, **reading)
    number, largest = deal_out(records.texts, fractions, seed)
    parts = tuple(records.select(np.flatnonzero(number == which)) for which in range(len(fractions) + 1))
    if any(share and not len(part) for share, part in zip(fractions, parts[1:], strict=True)):
        raise UserError(
            f"{records.name}: a part would be empty: of {len(records):,} examples, up to {largest:,} share texts and "
            "stay together"
        )
    return parts


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse shares that leave no training data.

    Raises:
        UserError: if so.
    """
    if isinstance(fractions, (int, float)):
        raise TypeError(f"fractions must be a list of shares, such as ({fractions},); got {fractions}")
    if not fractions or min(fractions) < 0 or sum(fractions) >= 1:
        raise UserError(f"fractions are the shares that are held out, below 1 together; got {list(fractions)}")


def deal_out(examples: Iterable[Sequence[str]], fractions: Sequence[float], seed: int) -> tuple[NDArray[np.int64], int]:
    """Assign examples to parts that share no text.

    Args:
        examples: the texts of n examples.
        fractions: the shares of the held-out parts.
        seed: seed of the random order.

    Returns:
        (n,) part of each example, 0 for the training data, and the size of the largest group that had to stay together.
    """
    component = component_of_examples([[normalized(text) for text in texts] for texts in examples])
    number = assign_by_component(component, [int(share * len(component)) for share in fractions], seed)
    return number, int(np.bincount(component).max())
