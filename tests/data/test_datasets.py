import pytest

from cosent import DataError, load_pairs
from cosent.data import datasets as datasets_module
from cosent.tokens import tokenize

ROWS = "How do I pay?\tHow can I pay?\t5\nHow do I pay?\tI want a refund\t1\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text(ROWS)
    return path


def test_tokens_stand_row_for_row_with_the_records(path, model):
    pairs = load_pairs(path, model)
    assert len(pairs) == len(pairs.tokens) == 2
    assert pairs.records[1] == {"text1": "How do I pay?", "text2": "I want a refund", "label": 1.0}
    first, second = _whole(model, ["How do I pay?", "I want a refund"])
    assert pairs.tokens[1]["input_ids"] == [*first, *second]
    assert pairs.tokens[1]["lengths"] == [len(first), len(second)]
    assert pairs.tokens[1]["labels"] == 1.0
    assert pairs.tokens[0]["text_ids"][0] == pairs.tokens[1]["text_ids"][0] != pairs.tokens[1]["text_ids"][1]
    assert pairs.labels.tolist() == [5.0, 1.0]


def test_tokens_are_made_once_for_each_content_and_length(path, tmp_path, model, monkeypatch):
    load_pairs(path, model)
    calls = []
    monkeypatch.setattr(datasets_module, "tokenize", lambda *args: calls.append(len(args[1])) or tokenize(*args))
    copy = tmp_path / "copy.tsv"
    copy.write_text(ROWS)
    load_pairs(copy, model)
    assert calls == []
    model.max_length = 6
    assert load_pairs(path, model).tokens[0]["lengths"] == [6, 6]
    path.write_text(ROWS.replace("refund", "rebate"))
    assert load_pairs(path, model).records[1]["text2"] == "I want a rebate"
    assert calls == [4, 4]


def test_truncated_share_counts_texts(path, model):
    assert load_pairs(path, model).truncated_share == 0
    model.max_length = len(_whole(model, ["How do I pay?"])[0])
    longer = [len(row) > model.max_length for row in _whole(model, ["How can I pay?", "I want a refund"])]
    assert load_pairs(path, model).truncated_share == sum(longer) / 4


def _whole(model, texts):
    return [model.tokenizer(text)["input_ids"] for text in texts]


def test_labels_keep_every_digit(path, model):
    path.write_text("a\tb\t0.9\nc\td\t3.8\n")
    assert list(load_pairs(path, model).tokens["labels"]) == [0.9, 3.8]


def test_a_default_prompt_is_tokenised_with_the_texts(path, model):
    plain = load_pairs(path, model)
    model.settings.prompts, model.settings.default_prompt_name = {"query": "refund "}, "query"
    prompted = load_pairs(path, model)
    assert prompted.tokens["lengths"][0] == [length + 1 for length in plain.tokens["lengths"][0]]


def test_select_keeps_records_and_tokens_together(path, model):
    pairs = load_pairs(path, model).select([1])
    assert len(pairs) == 1
    assert pairs.records[0]["text2"] == "I want a refund"
    assert pairs.tokens[0]["labels"] == 1.0


def test_a_single_label_value_cannot_be_ranked(path, model):
    path.write_text("a\tb\t1\nc\td\t1\n")
    with pytest.raises(DataError, match="every label is 1"):
        load_pairs(path, model)


def test_lower_casing_checkpoints_are_respected(path, model):
    model.settings.lower_case = True
    upper = path.with_name("upper.tsv")
    upper.write_text(ROWS.replace("refund", "REFUND"))
    assert load_pairs(upper, model).tokens["input_ids"][:] == load_pairs(path, model).tokens["input_ids"][:]
