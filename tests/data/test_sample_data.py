"""What data/README.md says of the sample data."""

from collections import Counter

import pytest

from cosent.data.datasets import read_records
from tests.conftest import DATA

FORMATS = {"classes": "classes", "triplets": "triplets", "sentences": "sentences"}


def read(path):
    return read_records(path, data_format=FORMATS.get(path.name.split(".")[0], "pairs"))


@pytest.mark.parametrize("language", [".", "zh"])
def test_no_training_text_is_held_out(language):
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    paths = [path for path in (DATA / language).glob("*.*") if path.name != "README.md"]
    for path in paths:
        held_out = "dev" in path.name or "test" in path.name
        sides[held_out] |= {text.casefold() for texts in read(path).rows["texts"] for text in texts}
    assert len(paths) == 9
    assert not sides[True] & sides[False]


@pytest.mark.parametrize("language", [".", "zh"])
def test_classes_are_imbalanced_as_said(language):
    sizes = Counter(Counter(read(DATA / language / "classes.train.tsv").labels.tolist()).values())
    assert sizes == {8: 16, 14: 2, 3: 2, 1: 1}


@pytest.mark.parametrize("name", ["triplets.train.tsv", "triplets.dev.tsv", "zh/triplets.train.jsonl"])
def test_triplets_have_one_to_three_negatives(name):
    assert {len(texts) - 2 for texts in read(DATA / name).rows["texts"]} == {1, 2, 3}
