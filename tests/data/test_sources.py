"""Rows from wherever people have them: the same examples, the same checks, the same messages."""

import gzip
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from cosent import DataError, SentenceBert, load_data, read_records
from cosent.data.datasets import TextDataset
from cosent.data.sources import check_sources

ROWS = [("how are you", "how do you do", 1.0), ("a b", "c d", 0.0), ('say "hi"', "x\ty", 0.25)] * 4
NAMES = ["sentence1", "sentence2", "score"]
FRAME = pd.DataFrame(ROWS, columns=NAMES)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dataset(rows=FRAME):
    return datasets.Dataset.from_pandas(rows, preserve_index=False)


def sources(folder: Path):
    FRAME.to_csv("a.csv", index=False)
    FRAME.to_json("a.jsonl", orient="records", lines=True)
    FRAME.to_parquet("a.parquet")
    dataset().save_to_disk("saved")
    datasets.DatasetDict(train=dataset(), validation=dataset(FRAME[:2])).save_to_disk("dict")
    for name, rows in (("shards/part-0", FRAME[:4]), ("shards/part-1", FRAME[4:]), ("clone/data/train-00000", FRAME)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(f"{name}.parquet")
    Path("clone/README.md").write_text("A dataset")
    Path("clone/dataset_infos.json").write_text("{}")
    return {
        "csv": "a.csv",
        "path": Path("a.jsonl"),
        "parquet": folder / "a.parquet",
        "folder of shards": "shards",
        "glob": "shards/*.parquet",
        "paths": ["shards/part-0.parquet", "shards/part-1.parquet"],
        "clone of a repository": "clone",
        "saved dataset": "saved",
        "saved splits": "dict",
        "DataFrame": FRAME,
        "DataFrame with another index": FRAME.set_index(FRAME.index * 0),
        "DataFrame without names": pd.DataFrame(ROWS),
        "DataFrame of other types": FRAME.convert_dtypes().astype({"sentence1": "category"}),
        "DataFrames": [FRAME[:5], FRAME[5:]],
        "Dataset": dataset(),
        "DatasetDict": datasets.DatasetDict(train=dataset(), test=dataset(FRAME[:3])),
        "IterableDataset": dataset().to_iterable_dataset(),
        "tuples": ROWS,
        "lists": [list(row) for row in ROWS],
        "numpy values": [(np.str_(a), np.str_(b), np.float64(c)) for a, b, c in ROWS],
        "dicts": FRAME.to_dict("records"),
        "generator": (row for row in ROWS),
    }


def test_the_same_examples_are_the_same_records_wherever_they_come_from(folder):
    found = {name: read_records(source) for name, source in sources(folder).items()}
    assert {records.data_format for records in found.values()} == {"pairs"}
    assert len(found["tuples"]) == len(ROWS)
    assert list(found["tuples"].texts) == [[a, b] for a, b, _ in ROWS]
    assert found["tuples"].labels.tolist() == [c for _, _, c in ROWS]
    assert {name: records.digest for name, records in found.items()} == dict.fromkeys(found, found["tuples"].digest)


def test_tokens_are_cached_by_content(tiny_bert):
    model = SentenceBert(tiny_bert, device="cpu")
    FRAME.to_csv("a.csv", index=False)
    first, second = load_data("a.csv", model), load_data(FRAME, model)
    assert first.tokens.cache_files == second.tokens.cache_files


def test_files_of_several_splits_are_told_apart():
    Path("f").mkdir()
    FRAME.to_csv("f/train.csv", index=False)
    FRAME[:6].to_csv("f/dev.csv", index=False)
    with gzip.open("f/my-Test.csv.gz", "wt", newline="") as file:
        FRAME[:5].to_csv(file, index=False)
    assert len(read_records("f")) == 12
    assert "taking the split 'train' of 'train', 'validation', 'test'" in read_records("f").report.remarks[0]
    assert len(read_records("f", usual_split="test")) == 5
    for name in ("validation", "dev"):
        assert len(read_records("f", split=name)) == 6
        assert read_records("f", split=name).report.remarks == []
    Path("f/train.csv").unlink()
    with pytest.raises(DataError, match="none of which is train: name one with split"):
        read_records("f")
    Path("f/more.tsv").write_text("a\tb\t1\n")
    with pytest.raises(DataError, match=r"files of several types, \.csv, \.tsv"):
        read_records("f")


@pytest.fixture
def hub(folder, monkeypatch):
    """A cache in which `datasets` finds owner/name without a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    rows = {"train": FRAME, "validation": FRAME[:4]}
    for split, part in rows.items():
        part.to_csv(f"{split}.csv", index=False)
    files = {split: f"{split}.csv" for split in rows}
    datasets.load_dataset("csv", data_files=files, cache_dir=str(folder / "built"))
    built = next((folder / "built" / "csv").glob("*/*/*/dataset_info.json")).parent
    cached = folder / "cache" / "owner___name" / "default" / "0.0.0" / ("a" * 40)
    shutil.copytree(built, cached)
    for file in cached.glob("csv-*"):
        file.rename(cached / file.name.replace("csv", "name"))
    info = json.loads((cached / "dataset_info.json").read_text())
    (cached / "dataset_info.json").write_text(json.dumps(info | {"builder_name": "name", "dataset_name": "name"}))


@pytest.mark.parametrize(
    ("name", "options", "number"),
    [
        ("hub:owner/name", {}, 12),
        ("hub:owner/name", {"usual_split": "validation"}, 4),
        ("hub:owner/name", {"split": "validation"}, 4),
        ("hub:owner/name::validation", {}, 4),
        ("hub:owner/name:default:train[:50%]", {}, 6),
    ],
)
def test_a_dataset_of_the_hub_is_found_where_it_is_cached(hub, name, options, number):
    records = read_records(name, **options)
    assert len(records) == number
    assert "owner/name" in records.report.path


def test_what_the_hub_does_not_have_is_one_clear_error(hub):
    for name, message in (
        ("hub:owner/other", "Without a network, it must have been loaded before; a private repository needs HF_TOKEN"),
        ("hub:owner/name:none", "hub:owner/name:none cannot be loaded"),
        ("hub:owner/name::none", "hub:owner/name::none cannot be loaded"),
        ("hub:", "is malformed: data of the Hub is hub:owner/name"),
    ):
        with pytest.raises(DataError, match=message):
            read_records(name)


def test_the_hub_is_asked_for_what_was_named(monkeypatch):
    asked = []

    def load(name, config, **options):
        asked.append((name, config, options))
        return dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    read_records("hub:owner/name@v1:conf:train[:10%]")
    read_records("hub:owner/name", split="dev", revision="abc")
    assert asked == [
        ("owner/name", "conf", {"split": "train[:10%]", "revision": "v1"}),
        ("owner/name", None, {"split": "dev", "revision": "abc"}),
    ]


def test_bad_rows_are_counted_and_numbered():
    rows = [("a", "b", 1), ("a", "", 1), ("a", None, 0), (3, "b", 1), ("a", "b", "x"), ("a", float("nan"), 1)]
    for name, source in (("list", rows), ("DataFrame", pd.DataFrame(rows))):
        with pytest.raises(DataError, match=f"the {name}: 5 of 6 rows cannot be used") as caught:
            read_records(source)
        for line in ("row 2: the second text is empty", "row 4: the first text is 3, which is no text"):
            assert line in str(caught.value)
    records = read_records([*rows[:2], ("c", "d", 0)], on_bad_rows="skip")
    assert (len(records), records.report.num_bad) == (2, 1)


def test_several_sources_have_one_format_and_one_report():
    triplets = pd.DataFrame({"anchor": ["a"], "positive": ["b"]})
    with pytest.raises(DataError, match="holds triplets, and the DataFrame pairs"):
        read_records([FRAME, triplets])
    bad = pd.DataFrame([("a", "b", 1), ("", "b", 1)])
    records = read_records([FRAME, bad, bad], on_bad_rows="skip")
    assert (len(records), records.report.num_rows, records.report.num_bad) == (14, 16, 2)
    assert records.report.path == "the DataFrame and 2 more"
    assert records.report.problems == ["the DataFrame, row 2: the first text is empty"] * 2


def classes(names, labels, **texts):
    features = {name: datasets.Value("string") for name in texts} | {"label": datasets.ClassLabel(names=names)}
    return datasets.Dataset.from_dict({**texts, "label": labels}, features=datasets.Features(features))


def test_numbers_of_classes_are_what_they_stand_for():
    records = read_records(classes(["weather", "bank"], [1, 0], text=["a", "b"]))
    assert (records.data_format, records.labels.tolist()) == ("classes", ["bank", "weather"])
    pairs = {"sentence1": ["a", "b"], "sentence2": ["c", "d"]}
    records = read_records(classes(["not_equivalent", "equivalent"], [0, 1], **pairs))
    assert records.labels.tolist() == [0, 1]
    assert records.report.remarks == ["the label 1, 'equivalent', is a match, and 0, 'not_equivalent', is none"]
    with pytest.raises(DataError, match="holds the classes 'entailment', 'neutral', 'contradiction', which are no sco"):
        read_records(classes(["entailment", "neutral", "contradiction"], [0, 1], **pairs))
    with pytest.raises(DataError, match="0 is 'entailment' and 1 is 'not_entailment', so that 1 would be no match"):
        read_records(classes(["entailment", "not_entailment"], [0, 1], **pairs))
    with pytest.raises(DataError, match="row 2: the label is -1, which stands for none"):
        read_records(classes(["no", "yes"], [0, -1], **pairs))


@pytest.mark.parametrize("source", [3, None, {"sentence1": ["a"]}, b"a.csv", 1.5, object()])
def test_other_types_are_told_what_is_taken(source):
    with pytest.raises(TypeError, match="data must be a path, a glob, a folder, 'hub:owner/name', a pandas DataFrame"):
        read_records(source)


@pytest.mark.parametrize("source", [FRAME.sentence1, [1, 2], [{"a"}], ["a.csv", 3]])
def test_rows_of_other_types_are_told_what_a_row_is(source):
    with pytest.raises(TypeError, match="a row is a tuple or a dict"):
        read_records(source)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (["hello", "world"], {}, r"none of the paths 'hello', 'world' exists. If they are texts, put each in a row"),
        ("none.tsv", {}, "none.tsv does not exist"),
        ("", {}, "the path of the data is empty"),
        ("x" * 5_000, {}, "cannot be read"),
        ("*.none", {}, r"\*.none matches no file"),
        (".", {}, "is a folder without data files"),
        ([], {}, "the list is empty"),
        (FRAME[:0], {}, "the DataFrame is empty"),
        (ROWS, {"split": "train"}, "data of type list has no splits or revisions"),
        (FRAME, {"revision": "v1"}, "data of type DataFrame has no splits or revisions"),
        (datasets.DatasetDict(a=dataset(), b=dataset()), {}, "has the splits 'a', 'b', none of which is train"),
        (datasets.DatasetDict(train=dataset()), {"split": "x"}, "has no split 'x'; it has 'train'"),
        (pd.concat([FRAME, FRAME], axis=1), {}, "has several columns"),
        (FRAME.rename(columns={"sentence1": "foo"}), {}, "which do not say where texts and labels are"),
    ],
)
def test_mistakes_are_one_clear_error(source, options, message):
    with pytest.raises(DataError, match=message):
        read_records(source, **options)


def test_sources_are_checked_before_anything_slow(folder):
    for source in sources(folder).values():
        if isinstance(source, (str, Path)):
            check_sources(source)
    check_sources("hub:owner/name")
    for source in ("hub:a b", "none.tsv", "*.none", "clone/README.md"):
        with pytest.raises(DataError):
            check_sources(source)


def test_a_damaged_saved_dataset_is_a_data_error():
    dataset().save_to_disk("saved")
    Path("saved/state.json").write_text("{")
    with pytest.raises(DataError, match="saved cannot be loaded"):
        read_records("saved")


def test_columns_may_be_numbered_by_integers():
    rows = [(1, "a", "b"), (0, "c", "d")]
    for source in (rows, pd.DataFrame(rows)):
        records = read_records(source, text_columns=[1, 2], label_column=0)
        assert (list(records.texts), records.labels.tolist()) == ([["a", "b"], ["c", "d"]], [1, 0])


@pytest.mark.parametrize("wrong", ["raise", "drop", "SKIP", None, True])
def test_what_to_do_with_bad_rows_is_one_of_two(wrong):
    with pytest.raises(ValueError, match="on_bad_rows must be one of error, skip"):
        read_records(ROWS, on_bad_rows=wrong)


def test_texts_are_not_taken_for_paths():
    with pytest.raises(DataError, match="If they are texts, put each in a row of its own"):
        read_records(["How do I pay?", "Where is it?"], data_format="sentences")


def test_a_dataset_is_not_built_by_mistake():
    with pytest.raises(TypeError, match=r"a TextDataset is made by load_data\(source, model\)"):
        TextDataset("train.tsv", None)
