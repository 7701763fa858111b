"""Data is checked and split from Python as it is by `cosent check`."""

import pandas as pd
import pytest

from cosent import SentenceBert, UserError, check_data, load_data, read_records, split_data
from cosent.data.lint import normalized
from tests.conftest import DATA

ROWS = [(f"question {i}", f"answer {i}", float(i % 2)) for i in range(40)]


def counts(findings):
    return {finding.what: finding.count for finding in findings}


def test_splits_are_checked_each_and_each_two():
    leaked = [*ROWS[:3], ("new", "text", 1), ("new", "text", 0)]
    checked = check_data(ROWS, dev=pd.DataFrame(leaked), test=[("other", "one", 1), ("Question 1?", "x", 0)])
    assert set(checked.findings) == {"train", "dev", "test", "dev beside train", "test beside train", "test beside dev"}
    assert checked.findings["train"] == []
    assert checked.findings["test beside dev"] != []
    text = str(checked)
    assert "train: 40 pairs of the list\n  nothing found" in text
    assert "dev: 5 pairs of the DataFrame" in text
    assert "row 4" in text and "row 5" in text


def test_records_and_paths_are_checked_alike():
    path = DATA / "dev.txt"
    assert list(map(str, check_data(path).findings["train"])) == list(
        map(str, check_data(read_records(path)).findings["train"])
    )


def texts_of(records):
    return {normalized(text) for texts in records.texts for text in texts}


def test_a_split_shares_no_text_and_loses_none(tiny_bert):
    rows = [*ROWS, ("Question 1!", "something else", 1.0), ("question 2", "answer 3", 0.0)]
    parts = split_data(rows, (0.2, 0.1), seed=1)
    assert [len(part) for part in parts][1:] == [8, 4]
    assert sum(map(len, parts)) == len(rows)
    for number, part in enumerate(parts):
        for other in parts[number + 1 :]:
            assert not texts_of(part) & texts_of(other)
    again = split_data(pd.DataFrame(rows), (0.2, 0.1), seed=1)
    assert [part.digest for part in parts] == [part.digest for part in again]
    assert split_data(rows, (0.2, 0.1), seed=2)[1].digest != parts[1].digest
    assert len(load_data(parts[1], SentenceBert(tiny_bert, device="cpu"))) == 8  # as any other data


@pytest.mark.parametrize("fractions", [(), (1.0,), (0.5, 0.5), (-0.1, 0.2)])
def test_shares_leave_something_to_train_on(fractions):
    with pytest.raises(UserError, match="shares that are held out, below 1 together"):
        split_data(ROWS, fractions)


def test_a_part_is_not_empty_without_a_word():
    linked = [("the same", f"other {i}", 1.0) for i in range(20)]
    with pytest.raises(UserError, match="of 20 examples, up to 20 share texts and stay together"):
        split_data(linked, (0.2,))
    assert len(split_data(ROWS, (0.0, 0.5))[1]) == 0
    with pytest.raises(TypeError, match="fractions must be a list of shares"):
        split_data(ROWS, 0.1)


def test_datasets_are_checked_and_split_by_their_records(tiny_bert):
    data = load_data(ROWS, SentenceBert(tiny_bert, device="cpu"))
    assert check_data(data).findings["train"] == []
    assert split_data(data, (0.2,))[1].digest == split_data(ROWS, (0.2,))[1].digest
