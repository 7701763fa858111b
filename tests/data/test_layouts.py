import json

import pandas as pd
import pytest

from cosent.data.layouts import Columns, Example
from cosent.data.readers import ExampleReader
from cosent.errors import DataError, UserError


def write(folder, name, rows):
    """A file of the rows, in the format that its name says."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows[1:], columns=rows[0]).to_csv(path, index=False)
    else:
        path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, data_format="auto", *, on_bad_rows="error", **columns):
    reader = ExampleReader(path, Columns(data_format, **columns), on_bad_rows=on_bad_rows)
    return list(reader), reader.data_format


def sentences(*texts):
    return [Example((text,)) for text in texts]


def test_one_sentence_a_line(tmp_path):
    path = write(tmp_path, "a.txt", [["你好"], ['a "quote'], ["12"]])
    for data_format in ("auto", "sentences"):
        assert read(path, data_format) == (sentences("你好", 'a "quote', "12"), "sentences")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.tsv", [["p", "q", "1"], ["r", "s", "0.5"]]),
        ("a.tsv", [["p", "q"], ["r", "s"]]),
        ("a.tsv", [["p", "q", "1"], ["r", "s", "x", "y"], ["r", "s", "0"]]),
        ("a.csv", [["sentence1", "sentence2", "label"], ["p", "q", 1], ["r", "s", 0]]),
        ("a.jsonl", [{"text1": "p", "text2": "q"}, {"text1": "r", "text2": "s"}]),
        ("a.jsonl", [{"anchor": "p", "positive": "q"}, {"anchor": "r", "positive": "s"}]),
        ("a.jsonl", [{"text": text} for text in "pqrs"]),
        ("a.csv", [["category", "text"], *(["c", text] for text in "pqrs")]),
    ],
)
def test_other_files_as_sentences_give_all_their_texts(tmp_path, name, rows):
    found, _ = read(write(tmp_path, name, rows), "sentences", on_bad_rows="skip")
    assert found == sentences(*"pqrs")


def test_a_column_of_numbers_is_no_sentence_but_a_number_among_texts_is(tmp_path):
    assert read(write(tmp_path, "a.tsv", [["p", "3", "1"], ["q", "r", "2"]]), "sentences")[0] == sentences(*"p3qr")


TRIPLETS = [Example(("a", "p", "n1", "n2")), Example(("b", "q", "m"))]


@pytest.mark.parametrize("data_format", ["auto", "triplets"])
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.tsv", [["a", "p", "n1", "n2"], ["b", "q", "m"]]),
        ("a.tsv", [["a", "p", "n1", "n2"], ["b", "q", "m", ""]]),
        (
            "a.csv",
            [
                ["id", "Negative 1", "anchor", "positive", "negative_2"],
                [1, "n1", "a", "p", "n2"],
                [2, "m", "b", "q", ""],
            ],
        ),
        ("a.jsonl", [{"query": "a", "pos": ["p"], "neg": ["n1", "n2"]}, {"query": "b", "pos": ["q"], "neg": ["m"]}]),
        (
            "a.jsonl",
            [{"query": "a", "title": "p", "neg_title": ["n1", "n2"]}, {"query": "b", "title": "q", "neg_title": "m"}],
        ),
        (
            "a.jsonl",
            [
                {"anchor": "a", "positive": "p", "negative_1": "n1", "negative_2": "n2"},
                {"anchor": "b", "positive": "q", "negative_1": "m", "negative_2": None},
            ],
        ),
        (
            "a.jsonl",
            [
                {"anchor": "a", "positive": "p", "negative": "n1", "negative_7": "n2"},
                {"anchor": "b", "positive": "q", "negative": "m"},
            ],
        ),
    ],
)
def test_triplets_with_as_many_negatives_as_a_row_has(tmp_path, name, rows, data_format):
    assert read(write(tmp_path, name, rows), data_format) == (TRIPLETS, "triplets")


def test_each_of_several_positives_makes_an_example(tmp_path):
    path = write(tmp_path, "a.jsonl", [{"query": "a", "pos": ["p", "q"], "neg": ["n"]}])
    assert read(path)[0] == [Example(("a", "p", "n")), Example(("a", "q", "n"))]


def test_anchors_and_positives_alone(tmp_path):
    expected = [Example(("a", "p")), Example(("b", "q"))]
    assert read(write(tmp_path, "a.tsv", [["a", "p"], ["b", "q"]]), "triplets")[0] == expected
    named = [{"sentence1": "a", "sentence2": "p"}, {"sentence1": "b", "sentence2": "q"}]
    assert read(write(tmp_path, "a.jsonl", named)) == (expected, "triplets")


CLASSES = [Example(("p",), "card lost"), Example(("q",), "7"), Example(("r",), "card lost")]


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("a.tsv", [["p", "card lost"], ["q", "7"], ["r", "card lost"]], {"likely": "classes"}),
        ("a.tsv", [["p", "card lost"], ["q", "7"], ["r", "card lost"]], {"data_format": "classes"}),
        ("a.csv", [["text", "category"], ["p", "card lost"], ["q", "7"], ["r", "card lost"]], {}),
        (
            "a.jsonl",
            [{"intent": "card lost", "query": "p"}, {"intent": 7, "query": "q"}, {"intent": "card lost", "query": "r"}],
            {},
        ),
        ("a.tsv", [["card lost", "p"], ["7", "q"], ["card lost", "r"]], {"texts": ("1",), "label": "0"}),
        (
            "a.tsv",
            [["what", "kind"], ["p", "card lost"], ["q", "7"], ["r", "card lost"]],
            {"texts": ("what",), "label": "kind"},
        ),
    ],
)
def test_classes_may_have_any_names(tmp_path, name, rows, columns):
    assert read(write(tmp_path, name, rows), **columns) == (CLASSES, "classes")


def test_three_columns_are_pairs_where_numbers_stand_in_the_third(tmp_path):
    rows = [["a", "b", "header?"], ["c", "d", "1"]]
    with pytest.raises(DataError, match="line 1: label 'header\\?' is no number"):
        read(write(tmp_path, "a.tsv", rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["1", "how to pay", "paying how", "1"], ["2", "login", "refund", "0"]], "0, 3 .from 0. hold numbers"),
        ([["1", "how to pay", "paying"], ["2", "login", "sign in"]], "0 .from 0. hold numbers"),
        ([["1", "how to pay", "1"], ["2", "login", "0"]], "mostly numbers in the columns 0, 2"),
        ([["first", "gold_label"], ["a", "b"]], "line 1 has the columns 'first', 'gold_label'"),
        ([[f"text {i}", f"other {i}", "yes"] for i in range(10)], "few values again and again in the columns 2"),
    ],
)
def test_numbers_and_names_in_the_place_of_texts_are_asked_about(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, "a.tsv", rows))


@pytest.mark.parametrize(
    ("row", "data_format"),
    [
        ({"sentence1": "a", "sentence2": "b", "gold": 1}, "triplets"),
        ({"anchor": "a", "positive": "b", "label": 0}, "triplets"),
        ({"query": "a", "reply": "b", "label": 1}, "classes"),
        ({"query": "a", "reply": "b"}, "sentences"),
    ],
)
def test_a_column_that_is_left_over_is_asked_about(tmp_path, row, data_format):
    path = write(tmp_path, "a.jsonl", [row, row])
    with pytest.raises(DataError, match=f"could be {data_format}, were it not for .*data_format='{data_format}'"):
        read(path)
    assert read(path, data_format)[1] == data_format


@pytest.mark.parametrize("label", ["label", "score"])
def test_query_and_title_are_a_pair_where_there_is_a_label(tmp_path, label):
    rows = [["qid", "query", "title", label], ["1", "a", "b", "0"], ["2", "c", "d", "1"]]
    assert read(write(tmp_path, "a.tsv", rows)) == ([Example(("a", "b"), 0.0), Example(("c", "d"), 1.0)], "pairs")


@pytest.mark.parametrize(
    "row",
    [
        {"anchor": "a", "positive": "p", "negatives": ["n", "m"]},
        {"query": "a", "pos": ["p"], "negs": ["n", "m"], "id": 7},
        {"query": "a", "positives": ["p"], "negatives": ["n", "m"]},
        {"query": "a", "answer": "p", "negative_1": "n", "negative_2": "m"},
    ],
)
def test_negatives_go_by_many_names(tmp_path, row):
    assert read(write(tmp_path, "a.jsonl", [row]))[0] == [Example(("a", "p", "n", "m"))]


def test_a_single_number_makes_no_pairs_of_triplets(tmp_path):
    rows = [["a", "b", "c"], ["d", "e", "2012"], ["f", "g", "h"], ["i", "j", "k"]]
    assert read(write(tmp_path, "a.tsv", rows))[1] == "triplets"


def test_a_bad_label_among_numbers_is_no_sentence(tmp_path):
    rows = [["p", "q", "1"], ["r", "s", "x"], ["p", "q", "0"], ["r", "s", ""], ["p", "q", "1"]]
    assert read(write(tmp_path, "a.tsv", rows), "sentences")[0] == sentences(*"pqrspqrspq")


def test_a_row_under_a_header_may_end_before_its_last_negatives(tmp_path):
    rows = [["anchor", "positive", "negative_1", "negative_2"], ["a", "p", "n1", "n2"], ["b", "q", "m"]]
    assert read(write(tmp_path, "a.tsv", rows)) == (TRIPLETS, "triplets")


def test_two_columns_without_names_are_not_guessed(tmp_path):
    with pytest.raises(DataError, match="data_format='classes' or data_format='triplets'"):
        read(write(tmp_path, "a.tsv", [["a", "b"]]))
    assert read(write(tmp_path, "a.tsv", [["a", "b"]]), likely="triplets")[1] == "triplets"
    path = write(tmp_path, "a.tsv", [[f"text {i}", f"class {i % 3}"] for i in range(10)])
    with pytest.raises(DataError, match="data_format='classes' or data_format='triplets'"):
        read(path, likely="triplets")  # what comes again and again may be names of classes
    assert read(path, "triplets")[1] == "triplets"


@pytest.mark.parametrize(
    ("data_format", "name", "rows", "message"),
    [
        ("triplets", "a.tsv", [["a"]], "1 columns, expected 2 or more"),
        ("triplets", "a.tsv", [["a", "", "n"]], "the positive is empty"),
        ("triplets", "a.jsonl", [{"query": "a", "pos": [], "neg": ["n"]}], "there is no positive"),
        (
            "triplets",
            "a.jsonl",
            [{"query": "a", "pos": ["p"], "neg": ["n", 3]}],
            "the negative 2 is 3, which is no text",
        ),
        ("triplets", "a.jsonl", [{"text": "a"}], "where the anchor and the positive are"),
        ("classes", "a.tsv", [["a", "b", "c"]], "3 columns, expected 2"),
        ("classes", "a.tsv", [["a", " "]], "the class is empty"),
        ("classes", "a.jsonl", [{"text": "a", "label": None}], "the class is None"),
        ("classes", "a.jsonl", [{"left": "a", "label": "b"}], "where the text and the class are"),
        ("sentences", "a.txt", [["a"], ["b", "c"]], "2 columns, expected 1"),
        ("sentences", "a.jsonl", [{"left": "a"}], "where the texts are"),
        ("auto", "a.jsonl", [{"left": "a"}], "where texts and labels are"),
        ("pairs", "a.txt", [["a"], ["b"]], "These look like sentences, not pairs"),
        ("pairs", "a.jsonl", [{"query": "a", "pos": "b"}], "These look like triplets, not pairs"),
    ],
)
def test_rows_that_cannot_be_used_say_why(tmp_path, data_format, name, rows, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, name, [*rows, rows[0]]), data_format)


@pytest.mark.parametrize(
    ("texts", "label", "expected"),
    [
        (("said",), "bucket", ("classes", ("a",))),
        (("said",), None, ("sentences", ("a",))),
        (("said", "reply", "agent"), None, ("triplets", ("a", "b", "d"))),
    ],
)
def test_columns_that_are_declared_leave_no_doubt_about_others(tmp_path, texts, label, expected):
    rows = [{"said": "a", "reply": "b", "bucket": "c", "agent": "d"}]
    (found,), data_format = read(write(tmp_path, "a.jsonl", rows), texts=texts, label=label)
    assert (data_format, found.texts) == expected
    with pytest.raises(DataError, match="could be triplets, were it not for 'bucket', 'agent'"):
        read(write(tmp_path, "a.jsonl", rows), texts=("said", "reply"))


def test_a_declared_name_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path, "a.csv", [["text", "category"], ["a", "b"]])
    with pytest.raises(DataError, match="has no column 'categry' but 'text', 'category'"):
        read(path, label="categry")


def test_an_unknown_format_is_a_value_error():
    with pytest.raises(ValueError, match="got 'class'"):
        Columns("class")


@pytest.mark.parametrize(("data_format", "texts"), [("pairs", ("0",)), ("classes", ("0", "1")), ("triplets", ("0",))])
def test_columns_that_a_format_does_not_have_are_refused(tmp_path, data_format, texts):
    with pytest.raises(DataError, match=f"{data_format} do not have {len(texts)} text columns"):
        read(write(tmp_path, "a.tsv", [["a", "b", "1"]]), data_format, texts=texts)


@pytest.mark.parametrize(
    ("texts", "label", "expected"),
    [
        (("1", "0"), None, ("pairs", ("b", "a"))),
        (("1",), None, ("sentences", ("b",))),
        (("0", "3", "1"), None, ("triplets", ("a", "d", "b"))),
        (None, "2", ("pairs", ("a", "b"))),
    ],
)
def test_declared_positions_say_what_rows_mean(tmp_path, texts, label, expected):
    (found,), data_format = read(write(tmp_path, "a.tsv", [["a", "b", "1", "d"]]), texts=texts, label=label)
    assert (data_format, found.texts) == expected


def test_public_triplets_and_classes_keep_every_row(shared_data):
    triplets, data_format = read(shared_data / "simclue" / "triplets.train.jsonl")
    assert (len(triplets), data_format) == (10_000, "triplets")
    classes, data_format = read(shared_data / "banking77" / "train.csv")
    assert (len(classes), data_format, len({example.label for example in classes})) == (10_003, "classes", 77)
    assert read(shared_data / "simclue" / "sentences.txt")[1] == "sentences"


def test_a_label_that_only_the_first_row_has_is_kept(tmp_path):
    path = write(tmp_path, "a.tsv", [["p", "q", "1"], ["r", "s", ""]])
    examples, _ = read(path, "pairs", needs_label=False)
    assert [example.label for example in examples] == [1.0, None]


NUMBERS_IN_OTHER_WRITING = {
    "0,137": "a decimal comma",
    "1,5e-3": "a decimal comma",
    "１，５": "a decimal comma",
    "85%": "a percentage",
    "85 %": "a percentage",
    "4/5": "a fraction",
    "2021-05-03": "a date",
    "12:30": "a time",
    "$5": "one with other signs",
    "1.234,5": "one with other signs",
    "−3": "one with other signs",
}


@pytest.mark.parametrize("field", NUMBERS_IN_OTHER_WRITING)
def test_numbers_in_other_writing_are_labels_that_say_what_to_write(tmp_path, field):
    rows = [["a", "b", field], ["c", "d", field], ["e", "f", field]]
    path = write(tmp_path, "a.tsv", rows)
    for data_format in ("auto", "pairs"):
        with pytest.raises(DataError, match="line 1: label .* is no number but looks like") as caught:
            read(path, data_format)
        assert NUMBERS_IN_OTHER_WRITING[field] in str(caught.value)
        assert "If line 1 is a header" not in str(caught.value)
    with pytest.raises(DataError, match="mostly numbers in the columns 2.*which would be hard negatives"):
        read(path, "triplets")
    assert read(path, "triplets", texts=("0", "1"))[0][0] == Example(("a", "b"))
    assert read(path, "sentences")[0] == sentences(*"abcdef")


@pytest.mark.parametrize("word", ["True", "no", "是", "entailment", "Similar"])
def test_words_that_labels_have_are_no_hard_negatives(tmp_path, word):
    with pytest.raises(DataError, match="columns 2 .from 0., or words that labels have"):
        read(write(tmp_path, "a.tsv", [["a", "b", word], ["c", "d", word]]))


def test_a_truth_value_as_a_label_says_what_to_write(tmp_path):
    rows = [["text1", "text2", "label"], ["a", "b", "True"], ["c", "d", "False"]]
    with pytest.raises(DataError, match="label 'True' is no number but looks like a truth value; write 1 and 0"):
        read(write(tmp_path, "a.csv", rows))


def test_texts_with_digits_are_texts(tmp_path):
    rows = [["call 110", "dial 110", "7 eleven"], ["拨打110", "打110", "12 点"]]
    assert read(write(tmp_path, "a.tsv", rows))[1] == "triplets"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "b"], ["c", "d"]], "pairs need a third one, the label"),
        ([["sentence1", "sentence2"], ["a", "b"]], "'sentence1', 'sentence2' and no label"),
        ([["query", "title"], ["a", "b"]], "'query', 'title' and no label"),
    ],
)
def test_pairs_without_their_label_are_no_triplets_where_pairs_are_expected(tmp_path, rows, message):
    path = write(tmp_path, "a.tsv", rows)
    with pytest.raises(DataError, match=message):
        read(path, likely="pairs")
    assert read(path, "triplets", likely="pairs")[1] == "triplets"
    assert read(path, likely="triplets")[1] == "triplets"


def test_what_two_columns_are_taken_for_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    reader = ExampleReader(write(tmp_path, "a.tsv", [["a", "b"], ["c", "d"]]), Columns(likely="triplets"))
    list(reader)
    assert reader.report.remarks == ["two columns without names are taken for triplets; data_format says otherwise"]
    assert caplog.messages == [f"{tmp_path / 'a.tsv'}: {reader.report.remarks[0]}"]
    declared = ExampleReader(tmp_path / "a.tsv", Columns("triplets"))
    list(declared)
    assert declared.report.remarks == []


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["text1", "text1", "text2", "label"], "several columns 'text1', 'text1'"),
        (["text1", "Text1", "text2", "label"], "several columns 'text1', 'Text1'"),
        (["text1", "text2", "label", "label"], "several columns 'label', 'label'"),
    ],
)
def test_columns_of_one_name_are_not_chosen_from(tmp_path, header, message):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, "a.tsv", [header, ["a", "b", "1", "1"]]))


def test_columns_of_one_name_are_told_apart_by_spelling_or_left_alone(tmp_path):
    path = write(tmp_path, "a.tsv", [["text1", "Text1", "text2", "label"], ["a", "b", "c", "1"]])
    assert read(path, texts=("Text1", "text2"))[0] == [Example(("b", "c"), 1.0)]
    path = write(tmp_path, "a.tsv", [["id", "id", "text1", "text2", "label"], ["1", "1", "a", "c", "1"]])
    assert read(path)[0] == [Example(("a", "c"), 1.0)]


@pytest.mark.parametrize("rows", [[["text1", "text2"], ["a", "b"]], [["text", "category"], ["a", "b"]]])
def test_a_header_that_comes_again_is_no_example(tmp_path, rows):
    path = write(tmp_path, "a.tsv", [*rows, rows[0], rows[1]])
    with pytest.raises(DataError, match="1 of 3 rows cannot be used\n  line 3: is the header again"):
        read(path)
    assert len(read(path, on_bad_rows="skip")[0]) == 2


@pytest.mark.parametrize(
    ("header", "columns"), [(["0", "1", "2"], {}), (["", "0", "1", "2"], {"texts": ("1", "2"), "label": "3"})]
)
def test_numbers_that_pandas_writes_as_names_are_no_row(tmp_path, header, columns):
    first = [""] * (len(header) - 3)
    path = write(tmp_path, "a.tsv", [header, [*first, "a", "b", "1"], [*first, "c", "d", "0"]])
    assert read(path, **columns)[0] == [Example(("a", "b"), 1.0), Example(("c", "d"), 0.0)]


def test_the_index_that_pandas_writes_is_no_column_left_over(tmp_path):
    path = write(tmp_path, "a.tsv", [["", "anchor", "positive"], ["0", "a", "p"]])
    assert read(path) == ([Example(("a", "p"))], "triplets")


@pytest.mark.parametrize(("texts", "label"), [(("a", "a"), None), (("a", "b"), "b"), (("0", "1"), "1")])
def test_a_column_is_named_once(texts, label):
    with pytest.raises(UserError, match="name '[ab1]' twice"):
        Columns(texts=texts, label=label)


def test_names_in_one_text_are_refused():
    with pytest.raises(TypeError, match=r"got 'a,b'; use text_columns=\('a', 'b'\)"):
        Columns(texts="a,b")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv"])
def test_declared_columns_that_are_not_there_are_named(tmp_path, name):
    rows = [{"p": "a", "q": "b"}] if name == "a.jsonl" else [["p", "q"], ["a", "b"]]
    for columns in ({"texts": ("p", "zz")}, {"texts": ("p", "q"), "label": "zz"}, {"label": "zz"}):
        with pytest.raises(DataError, match="has no column 'zz' but 'p', 'q'"):
            read(write(tmp_path, name, rows), **columns)


@pytest.mark.parametrize(("value", "name"), [(1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (10**20, str(10**20))])
def test_a_class_is_the_same_in_every_kind_of_file(tmp_path, value, name):
    rows = [{"text": text, "label": value} for text in "pq"]
    expected = [Example((text,), name) for text in "pq"]
    assert read(write(tmp_path, "a.jsonl", rows), "classes")[0] == expected
    if value != 10**20:  # no table holds it
        pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet", "classes")[0] == expected
    assert read(write(tmp_path, "a.tsv", [["text", "label"], ["p", name], ["q", name]]), "classes")[0] == expected


def test_truth_values_of_json_and_tables_are_scores(tmp_path):
    rows = [{"text1": "p", "text2": "q", "label": True}, {"text1": "r", "text2": "s", "label": False}]
    expected = [Example(("p", "q"), 1.0), Example(("r", "s"), 0.0)]
    assert read(write(tmp_path, "a.jsonl", rows))[0] == expected
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == expected


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (["text1", "text2", "label", "score"], r"'label', 'score', any of which could be the labels.*label_column"),
        (
            ["sentence1", "sentence2", "text1", "text2", "label"],
            r"'sentence1', 'sentence2' and 'text1', 'text2', any of which could be the texts.*text_columns",
        ),
    ],
)
def test_two_known_labels_or_pairs_of_texts_are_not_chosen_from(tmp_path, header, message):
    texts = [name for name in header if "t" in name]
    rows = [header, *([*(f"{name} {n}" for name in texts), *[str(n)] * (len(header) - len(texts))] for n in (1, 0))]
    named = [dict(zip(header, row, strict=True)) for row in rows[1:]]
    for path in (write(tmp_path, "a.tsv", rows), write(tmp_path, "a.jsonl", named)):
        for data_format in ("auto", "pairs"):
            with pytest.raises(DataError, match=message):
                read(path, data_format)
    path = write(tmp_path, "a.tsv", rows)
    declared = {"texts": ("text1", "text2"), "label": header[-1]}
    assert [example.label for example in read(path, **declared)[0]] == [1, 0]
    if "score" in header:
        assert len(read(path, needs_label=False)[0]) == 2
    else:
        assert len(read(path, texts=("text1", "text2"))[0]) == 2


@pytest.mark.parametrize("field", ["nan", "inf", "-Infinity", "1e400", "0x1", "0XfF"])
def test_numbers_that_are_no_labels_are_no_hard_negatives(tmp_path, field):
    path = write(tmp_path, "a.tsv", [[f"p{i}", f"q{i}", field] for i in range(3)])
    with pytest.raises(DataError, match="label .* is not finite|label .* looks like a hexadecimal number"):
        read(path)
    with pytest.raises(DataError, match="mostly numbers"):
        read(path, "triplets")


@pytest.mark.parametrize("field", ["1_0", "1_000.5", "0_1"])
def test_underscores_in_labels_are_refused(tmp_path, field):
    rows = [["p", "q", "1"], ["r", "s", field]]
    with pytest.raises(DataError, match=f"label '{field}' is no number but looks like a number with underscores"):
        read(write(tmp_path, "a.tsv", rows))
