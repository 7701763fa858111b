import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from cosent import DataError, load_data
from cosent.data import datasets as datasets_module
from cosent.data import record_files
from cosent.data.datasets import read_records
from cosent.data.token_rows import TokenRows
from cosent.errors import UserError
from cosent.model.tokens import tokenize

ROWS = "How do I pay?\tHow can I pay?\t5\nHow do I pay?\tI want a refund\t1\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text(ROWS)
    return path


def test_tokens_stand_row_for_row_with_the_records(path, model):
    pairs = load_data(path, model)
    assert len(pairs) == len(pairs.tokens) == 2
    assert pairs.records.rows[1] == {"texts": ["How do I pay?", "I want a refund"], "label": 1.0}
    first, second = _whole(model, ["How do I pay?", "I want a refund"])
    assert pairs.tokens[1]["input_ids"] == [*first, *second]
    assert pairs.tokens[1]["lengths"] == [len(first), len(second)]
    assert pairs.tokens[1]["labels"] == 1.0
    assert pairs.tokens[0]["text_ids"][0] == pairs.tokens[1]["text_ids"][0] != pairs.tokens[1]["text_ids"][1]
    assert pairs.labels.tolist() == [5.0, 1.0]


def test_tokens_are_made_once_for_each_content_and_length(path, tmp_path, model, monkeypatch):
    load_data(path, model)
    calls = []
    monkeypatch.setattr(datasets_module, "tokenize", lambda *args: calls.append(len(args[1])) or tokenize(*args))
    copy = tmp_path / "copy.tsv"
    copy.write_text(ROWS)
    load_data(copy, model)
    assert calls == []
    model.max_length = 6
    assert load_data(path, model).tokens[0]["lengths"] == [6, 6]
    path.write_text(ROWS.replace("refund", "rebate"))
    assert load_data(path, model).records.rows[1]["texts"][1] == "I want a rebate"
    assert calls == [4, 4]


def test_truncated_share_counts_texts(path, model):
    assert load_data(path, model).truncated_share == 0
    model.max_length = len(_whole(model, ["How do I pay?"])[0])
    longer = [len(row) > model.max_length for row in _whole(model, ["How can I pay?", "I want a refund"])]
    assert load_data(path, model).truncated_share == sum(longer) / 4


def _whole(model, texts):
    return [model.tokenizer(text)["input_ids"] for text in texts]


def test_labels_keep_every_digit(path, model):
    path.write_text("a\tb\t0.9\nc\td\t3.8\n")
    assert list(load_data(path, model).tokens["labels"]) == [0.9, 3.8]


def test_a_default_prompt_is_tokenised_with_the_texts(path, model):
    plain = load_data(path, model)
    model.settings.prompts, model.settings.default_prompt_name = {"query": "refund "}, "query"
    prompted = load_data(path, model)
    assert prompted.tokens["lengths"][0] == [length + 1 for length in plain.tokens["lengths"][0]]


def test_select_keeps_records_and_tokens_together(path, model):
    pairs = load_data(path, model).select([1])
    assert len(pairs) == 1
    assert pairs.records.rows[0]["texts"][1] == "I want a refund"
    assert pairs.tokens[0]["labels"] == 1.0


def test_a_single_label_value_cannot_be_ranked(path, model):
    path.write_text("a\tb\t1\nc\td\t1\n")
    with pytest.raises(DataError, match="every label is 1"):
        load_data(path, model)


def test_lower_casing_checkpoints_are_respected(path, model):
    model.settings.lower_case = True
    upper = path.with_name("upper.tsv")
    upper.write_text(ROWS.replace("refund", "REFUND"))
    assert load_data(upper, model).tokens["input_ids"][:] == load_data(path, model).tokens["input_ids"][:]


def test_examples_of_several_lengths(tmp_path, model):
    (tmp_path / "a.tsv").write_text("pay\tpay now\trefund\tcard\nlogin\tsign in\n")
    data = load_data(tmp_path / "a.tsv", model, data_format="triplets")
    assert data.data_format == "triplets"
    assert data.num_texts.tolist() == [4, 2]
    for row, texts in enumerate((["pay", "pay now", "refund", "card"], ["login", "sign in"])):
        whole = _whole(model, texts)
        assert data.records.rows[row]["texts"] == texts
        assert data.tokens[row]["lengths"] == list(map(len, whole))
        assert data.tokens[row]["input_ids"] == sum(whole, [])
    assert "labels" not in data.tokens.column_names


def test_classes_have_the_same_number_in_every_file(tmp_path, model):
    (tmp_path / "a.tsv").write_text("pay\tbilling\nlogin\taccount\nsign in\taccount\n")
    (tmp_path / "b.tsv").write_text("sign up\taccount\nrefund\tbilling\n")
    one, two = (load_data(tmp_path / name, model, data_format="classes") for name in ("a.tsv", "b.tsv"))
    assert one.labels.dtype == np.int64
    assert one.labels[[1, 0]].tolist() == two.labels.tolist()
    assert one.labels[1] == one.labels[2] != one.labels[0]
    assert one.records.labels.tolist() == ["billing", "account", "account"]


def test_a_single_class_cannot_be_told_apart(tmp_path, model):
    (tmp_path / "a.tsv").write_text("a\tx\nb\tx\n")
    with pytest.raises(DataError, match="every text is of class 'x'"):
        load_data(tmp_path / "a.tsv", model, data_format="classes")


def test_a_sample_is_drawn_by_its_seed_and_keeps_the_order(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"sentence {i}\n" for i in range(100)))
    records = read_records(tmp_path / "a.txt")
    drawn = {seed: [texts[0] for texts in records.sample(10, seed).rows["texts"]] for seed in (1, 2)}
    again = [texts[0] for texts in records.sample(10, 1).rows["texts"]]
    assert drawn[1] == again != drawn[2]
    assert len(set(drawn[1])) == 10
    assert drawn[1] == sorted(drawn[1], key=lambda text: int(text.split()[1]))
    assert records.sample(100, 1) is records


def test_pairs_that_match_become_triplets(path, model, caplog):
    path.write_text("a\tb\t1\na\tc\t0\nd\te\t1\n")
    plain = read_records(path).to_triplets().tokenize(model)
    assert plain.data_format == "triplets"
    assert list(plain.records.rows["texts"]) == [["a", "b"], ["d", "e"]]
    caplog.set_level("INFO")
    with_negatives = read_records(path).to_triplets(use_negatives=True)
    assert "1 of 1 pairs that do not match begin with an anchor" in caplog.text
    assert list(with_negatives.rows["texts"]) == [["a", "b", "c"], ["d", "e"]]


def test_graded_pairs_become_triplets_only_when_told_what_matches(path):
    records = read_records(path)
    with pytest.raises(DataError, match="positive_label_min says"):
        records.to_triplets()
    with pytest.raises(DataError, match="no pair matches"):
        records.to_triplets(positive_label_min=6)
    assert list(records.to_triplets(positive_label_min=5).rows["texts"]) == [["How do I pay?", "How can I pay?"]]


def test_pairs_that_all_match_are_enough_for_triplets(path, model):
    path.write_text("a\tb\t1\nc\td\t1\n")
    assert len(read_records(path).to_triplets().tokenize(model)) == 2


def test_what_are_no_pairs_cannot_become_triplets(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match="holds sentences; pairs become triplets"):
        read_records(tmp_path / "a.txt").to_triplets()


def test_unknown_tokens_are_counted(path, model):
    path.write_text("pay\tpay now\t1\nΩΩ\tpay\t0\n")
    data = load_data(path, model)
    ids = [token for row in data.tokens["input_ids"] for token in row]
    assert data.token_share(model.tokenizer.unk_token_id) == 1 / len(ids)


def test_what_matches_through_others_is_one_group(tmp_path, model):
    rows = [
        {"anchor": a, "positive": p, "negative": n} for a, p, n in (("a", "b", "x"), ("b", "c", "a"), ("d", "e", "c"))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(tmp_path / "a.jsonl", model)
    groups = data.positive_groups(data.text_ids).reshape(3, 3)
    assert len(set(groups[:2, :2].ravel()) | {groups[1, 2], groups[2, 2]}) == 1  # a, b, c; and a, c as negatives
    assert len({groups[0, 0], groups[2, 0], groups[0, 2]}) == 3


def test_the_same_rows_under_other_formats_are_other_data(tmp_path, model):
    (tmp_path / "a.tsv").write_text("a\tb\nc\td\n")
    formats = {
        name: load_data(tmp_path / "a.tsv", model, data_format=name) for name in ("sentences", "triplets", "classes")
    }
    assert [len(formats[name]) for name in formats] == [4, 2, 2]
    assert formats["classes"].num_texts.tolist() == [1, 1]


ROWS_OF_A_FORMAT = {
    "pairs": "text {0}\tother {0} text\t{0}\n",
    "triplets": "text {0}\ta {0}{1}\n",
    "classes": "a {0}\tclass {0}\n",
}


@pytest.fixture
def make_data(tmp_path, model):
    """2,500 examples of a format, which `datasets` keeps in three chunks."""

    def make(data_format):
        path = tmp_path / f"{data_format}.tsv"
        row = ROWS_OF_A_FORMAT[data_format]
        path.write_text("".join(row.format(i, "\tno" * (i % 3)) for i in range(2500)))
        data = load_data(path, model, data_format=data_format)
        assert data.tokens.data.column("input_ids").num_chunks == 3
        return data

    return make


SELECTIONS = {
    "all": lambda data: data,
    "in another order": lambda data: data.select(np.random.default_rng(0).permutation(len(data))[:2000]),
    "neighbours": lambda data: data.select(np.arange(900, 2400)),
    "none": lambda data: data.select(np.arange(0)),
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("data_format", ROWS_OF_A_FORMAT)
def test_rows_come_together_as_datasets_gives_them_one_by_one(make_data, data_format, selection):
    data = SELECTIONS[selection](make_data(data_format))
    rows = TokenRows(data.tokens)
    assert len(rows) == len(data)
    for indices in ([0, 0, 1499, 600, 7], np.arange(1500)) if len(data) else ([],):
        some, expected = rows.__getitems__(indices), [data.tokens[int(i)] for i in indices]
        for name in ("input_ids", "lengths", "text_ids"):
            assert getattr(some, name).tolist() == [number for row in expected for number in row[name]]
        assert some.num_texts.tolist() == [len(row["lengths"]) for row in expected]
        if data_format == "triplets":
            assert some.labels is None
        else:
            assert some.labels.tolist() == [row["labels"] for row in expected]
            assert some.labels.dtype == {"pairs": np.float64, "classes": np.int64}[data_format]


def test_no_rows_at_all_keep_their_kinds(make_data):
    none = TokenRows(make_data("pairs").tokens).__getitems__([])
    kinds = [array.dtype for array in (none.input_ids, none.lengths, none.text_ids, none.num_texts, none.labels)]
    assert kinds == [np.int32, np.int32, np.int64, np.int64, np.float64]
    assert none.num_texts.shape == (0,)


@pytest.mark.parametrize("selection", ["all", "in another order"])
def test_a_row_alone_is_a_dict_and_rows_can_be_gone_through(make_data, selection):
    data = SELECTIONS[selection](make_data("pairs"))
    rows = TokenRows(data.tokens)
    assert [len(row["input_ids"]) for row in rows] == list(map(len, data.tokens["input_ids"]))
    for index in (0, 7, -1):
        expected = {name: value for name, value in data.tokens[index].items() if name != "truncated"}
        assert {name: value.tolist() for name, value in rows[index].items()} == expected
    with pytest.raises(IndexError):
        rows[len(data)]


def test_rows_are_read_where_the_file_is_mapped(make_data):
    data = make_data("pairs")
    rows = TokenRows(data.tokens)
    for column, mapped in (("input_ids", rows._input_ids), ("lengths", rows._lengths), ("text_ids", rows._text_ids)):
        buffers = [chunk.values.buffers()[1].address for chunk in data.tokens.data.column(column).chunks]
        assert [chunk.ctypes.data for chunk in mapped._values] == buffers
    assert len(pickle.dumps(rows)) < 10_000  # a path, not 2,500 rows


def test_worker_processes_read_the_same_rows(make_data):
    rows = TokenRows(make_data("pairs").select(np.arange(2500)[::-1]).tokens)
    expected = [rows.__getitems__(range(start, min(start + 1000, 2500))) for start in (0, 1000, 2000)]
    forked = DataLoader(rows, batch_size=1000, num_workers=1, multiprocessing_context="fork", collate_fn=_input_ids)
    assert [ids.tolist() for ids in forked] == [some.input_ids.tolist() for some in expected]
    travelled = pickle.loads(pickle.dumps(rows))  # what a spawned process gets
    assert travelled.__getitems__(range(1000)).input_ids.tolist() == expected[0].input_ids.tolist()


def _input_ids(examples):
    return examples.input_ids


def test_rows_in_memory_are_rows_too():
    columns = {"input_ids": [[1, 2, 3], [4]], "lengths": [[2, 1], [1]], "text_ids": [[7, 8], [9]]}
    some = TokenRows(Dataset.from_dict(columns)).__getitems__([1, 0])
    assert some.input_ids.tolist() == [4, 1, 2, 3]
    assert some.lengths.tolist() == [1, 2, 1]
    assert some.num_texts.tolist() == [1, 2]


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "cut by a byte": lambda data: data[:-1],
    "cut behind a batch": lambda data: data[:-8],  # the end of the stream, which Arrow does without
    "empty": lambda data: b"",
    "garbage": lambda data: b"garbage" * 99,
    "garbage at the end": lambda data: data + b"garbage",
    "garbage within": lambda data: data[:-300] + bytes(64) + data[-236:],
    "another file": lambda data: b"PAR1" + data,
}


def _cached(data):
    return Path(data.tokens.cache_files[0]["filename"])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_token_cache_is_made_again(path, model, caplog, damage):
    path.write_text(ROWS + f"{damage}\tb\t3\n")
    whole = load_data(path, model)
    cache, expected = _cached(whole), whole.tokens[:]
    content = cache.read_bytes()
    assert DAMAGE[damage](content) != content
    _replace(cache, DAMAGE[damage](content))
    again = load_data(path, model)
    assert again.tokens[:] == expected
    assert cache.read_bytes() == content
    assert caplog.messages == [f"{cache} is damaged or unfinished; the texts are tokenised again"]
    load_data(path, model)
    assert len(caplog.messages) == 1


def _replace(path, content):
    """Write another file in the place of one that is mapped, and may not change under its reader."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_records_are_written_again(path, model, damage):
    whole = load_data(path, model)
    records = Path(whole.records.rows.cache_files[0]["filename"])
    expected = whole.records.rows[:]
    _replace(records, DAMAGE[damage](records.read_bytes()))
    again = load_data(path, model)
    assert again.records.rows[:] == expected
    assert again.tokens[:] == whole.tokens[:]


def test_a_cache_that_another_process_removes_is_made_again(path, model, monkeypatch):
    expected = load_data(path, model)
    cache, content = _cached(expected), expected.tokens[:]
    discard = datasets_module.discard_damaged

    def lose(file):
        discard(file)
        assert file.exists()
        _replace(file, b"another process is not through")

    monkeypatch.setattr(datasets_module, "discard_damaged", lose)
    assert load_data(path, model).tokens[:] == content
    monkeypatch.undo()
    assert load_data(path, model).tokens[:] == content
    assert cache.exists()


def test_processes_that_make_one_cache_at_once_all_get_it(tmp_path, model, monkeypatch):
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"text {i}\tother {i}\t{i % 2}\n" for i in range(1500)))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()

    def load(number):
        found = []
        for round_number in range(4):
            barrier.wait(60)
            model.max_length = 8 + round_number  # something new to make
            data = load_data(path, model)
            found.append((len(data), int(data.text_ids.sum()), data.tokens[1499]["input_ids"]))
        results.put((number, found))

    processes = [context.Process(target=load, args=(number,)) for number in range(3)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert found[0] == found[1] == found[2]
    assert [count for count, *_ in found[0]] == [1500] * 4
    assert not list((tmp_path / "cache" / "cosent").glob("unfinished*"))


def test_a_cache_that_cannot_be_written_is_an_error_of_the_user(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written: .*HF_DATASETS_CACHE names another"):
        read_records(path)


def test_blocks_of_long_texts_are_small_and_lose_nothing(path, monkeypatch):
    path.write_text("".join(f"{'x' * 900}{i}\tb\t{i % 2}\n" for i in range(50)))
    expected = read_records(path).rows[:]
    monkeypatch.setattr(record_files, "CHARACTERS_A_BLOCK", 5_000)
    small = read_records(path)
    assert small.rows[:] == expected
    assert small.rows.data.column("texts").num_chunks == 9


def test_the_limit_of_a_text_reaches_the_reader(path, model):
    path.write_text(ROWS + "x" * 500 + "\tb\t3\n")
    with pytest.raises(DataError, match="line 3: is longer than max_text_bytes=400"):
        load_data(path, model, max_text_bytes=400)
    assert len(load_data(path, model, max_text_bytes=400, on_bad_rows="skip")) == 2
