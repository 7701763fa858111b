import json

import pytest

from tests.cli.conftest import cosent
from tests.conftest import DATA


def write(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_it_says_what_is_wrong_where_and_what_that_does(tmp_path, tiny_bert):
    train = write(tmp_path / "train.tsv", [("a", "b", "1"), ("a", "b", "0"), ("c", "d", "0")])
    test = write(tmp_path / "test.tsv", [("A", "x", "1"), ("y", "z", "0")])
    flags = ("--output_path", tmp_path / "found.json", "--model_name_or_path", tiny_bert)
    done = cosent("check", train, test, *flags)
    assert done.status == 0, done.stderr
    for said in (
        "3 pairs",
        "labels 0: 2 (66.7%), 1: 1 (33.3%)",
        "tokens: median",
        "the same pair with different labels: 2 of 3",
        "no model can be right about 1 of them",
        "line 1: 'a' | 'b' -> 1; line 2: 'a' | 'b' -> 0",
        f"examples with a text of {train} but for case, width, spaces or punctuation: 1 of 2 (50.0%)",
    ):
        assert said in done.stdout
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert list(found) == [str(train), str(test), f"{test} beside {train}"]
    assert found[str(test)] == []


def test_a_split_that_it_writes_leaks_nothing_and_loses_nothing(tmp_path):
    paths = [DATA / "zh" / f"{name}.txt" for name in ("train", "dev", "test")]
    done = cosent("check", *paths, "--write_split", tmp_path / "new", "--fractions", "0.2", "0.3")
    assert done.status == 0, done.stderr
    new = [tmp_path / "new" / f"{name}.tsv" for name in ("train", "dev", "test")]
    lines = [path.read_text(encoding="utf-8").splitlines() for path in new]
    assert [len(part) for part in lines] == pytest.approx([320, 128, 192], abs=8)
    source = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(line for part in lines for line in part) == sorted(source)
    again = cosent("check", *new)
    assert "but for case" not in again.stdout
    assert "hang together" not in again.stdout
    same = cosent("check", *paths, "--write_split", tmp_path / "same", "--fractions", "0.2", "0.3")
    assert same.status == 0
    for path in new:
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes()


def test_texts_that_differ_in_case_alone_stay_together(tmp_path):
    rows = [(f"Text {n // 2}" if n % 2 else f"text {n // 2}!", f"other {n}", str(n % 2)) for n in range(40)]
    paths = [write(tmp_path / "all.tsv", rows), "--write_split", tmp_path / "new", "--fractions", "0.3", "0.3"]
    done = cosent("check", *paths)
    assert done.status == 0, done.stderr
    parts = [(tmp_path / "new" / f"{name}.tsv").read_text().splitlines() for name in ("train", "dev", "test")]
    numbers = [{line.split("\t")[0].strip("!").split()[1] for line in part} for part in parts]
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == 20


def test_mistakes_end_in_one_clear_line(error_of, tmp_path):
    train = write(tmp_path / "train.tsv", [("a", "b", "1"), ("c", "d", "0")])
    assert "train.tsv is there already" in error_of("check", train, "--write_split", tmp_path)
    (tmp_path / "x").mkdir()
    write(tmp_path / "x" / "test.tsv", [("kept", "as it is", "1")])
    assert "test.tsv is there already" in error_of("check", train, "--write_split", tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["test.tsv"]
    write(tmp_path / "s.txt", [("one sentence",)])
    write(tmp_path / "two.tsv", [("a", "b"), ("c", "d")])
    assert "has two columns without names" in error_of("check", tmp_path / "s.txt", tmp_path / "two.tsv")
    asked = error_of("check", train, "--write_split", tmp_path / "y", "--fractions", "0.5", "0.6")
    assert "below 1 together" in asked
    assert train.read_text() == "a\tb\t1\nc\td\t0\n"


def test_dev_beside_test_is_not_called_training_data(tmp_path):
    train = write(tmp_path / "train.tsv", [("a", "b", "1"), ("c", "d", "0")])
    dev = write(tmp_path / "dev.tsv", [("e", "f", "1"), ("g", "h", "0"), ("a", "b", "1")])
    test = write(tmp_path / "test.tsv", [("e", "f", "1"), ("i", "j", "0"), ("c", "d", "0")])
    done = cosent("check", train, dev, test)
    assert done.status == 0, done.stderr
    beside_dev = done.stdout[done.stdout.index(f"{test} beside {dev}") :]
    assert f"pairs that stand in {dev}, either way round: 1 of 3" in beside_dev
    assert "what chooses the checkpoint and the threshold is measured again" in beside_dev
    assert "trained" not in beside_dev and "training" not in beside_dev
    assert done.stdout.count("what was trained on is measured again") == 4  # dev and test beside train: pairs, texts
