import csv
import json

import numpy as np
import pytest

from cosent.calibration import Platt
from cosent.data.layouts import Columns
from cosent.data.readers import ExampleReader
from cosent.errors import DataError, UserError
from cosent.inference import predictions as scoring
from cosent.inference.predictions import ScoredRow, score_file, write_scored
from cosent.model.decision import Decision

UNLABELLED = Columns("pairs", needs_label=False)


@pytest.fixture
def decided(model):
    model.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 9)
    return model


def test_blocks_follow_each_other_in_the_files_order(decided, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_PAIRS_AT_A_TIME", 7)
    pairs = [(f"还款 {number}", f"退款 {number % 3}") for number in range(20)]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    assert score_file(decided, ExampleReader(tmp_path / "a.tsv", UNLABELLED), tmp_path / "out.tsv") == 20
    lines = [line.split("\t") for line in (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == ["text1", "text2", "label", "score", "probability", "decision"]
    assert [tuple(line[:2]) for line in lines[1:]] == pairs
    np.testing.assert_allclose([float(line[3]) for line in lines[1:]], decided.predict(pairs).scores, atol=1e-5)


def test_a_given_threshold_goes_before_the_stored_one(decided, tmp_path):
    decided.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 9, calibration=Platt(10, -5))
    (tmp_path / "a.tsv").write_text("退款\t退款\t1\n退款\t退款\t0\n退款\t退款\t\n", encoding="utf-8")
    for threshold, decision in ((None, 1), (2.0, 0)):
        output = tmp_path / "new" / "folder" / f"{decision}.jsonl"
        score_file(decided, ExampleReader(tmp_path / "a.tsv", UNLABELLED), output, threshold=threshold)
        lines = output.read_text(encoding="utf-8").splitlines()
        assert all(line.startswith('{"text1": "退款", "text2": "退款", ') for line in lines)
        rows = [json.loads(line) for line in lines]
        assert [row["label"] for row in rows] == [1, 0, None]
        assert [row["decision"] for row in rows] == [decision] * 3
        assert [row["score"] for row in rows] == [1] * 3  # to six places
        assert [row["probability"] for row in rows] == [0.993307] * 3  # 1 / (1 + exp(-5))


def test_what_cannot_be_written_is_refused_before_anything_is_read(decided, tmp_path):
    reader = ExampleReader(tmp_path / "not there.tsv", UNLABELLED)
    with pytest.raises(UserError, match="would be overwritten"):
        score_file(decided, reader, tmp_path / "not there.tsv")
    with pytest.raises(UserError, match="a .tsv, .csv or .jsonl file"):
        score_file(decided, reader, tmp_path / "out.xlsx")
    decided.settings.decision = None
    with pytest.raises(UserError, match="stores no threshold"):
        score_file(decided, reader, tmp_path / "out.tsv")


def test_a_bad_row_is_said_before_anything_is_scored(decided, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_PAIRS_AT_A_TIME", 7)
    monkeypatch.setattr(decided, "predict", lambda *args, **options: pytest.fail("scored"))
    (tmp_path / "a.tsv").write_text("a\tb\n" * 9 + "c\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 10: 1 columns"):
        score_file(decided, ExampleReader(tmp_path / "a.tsv", UNLABELLED), tmp_path / "out.tsv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "a\tb\t1\nc\td\t0\ne\tf\ng\th\t\n"),
        ("a.csv", "text1,text2,label\na,b,1\nc,d,0\ne,f,\ng,h,\n"),
        ("a.jsonl", '{"text1": "a", "text2": "b", "label": 1}\n{"text1": "c", "text2": "d", "label": 0}\n'
         '{"text1": "e", "text2": "f", "label": null}\n{"text1": "g", "text2": "h", "label": ""}\n'),
    ],
)  # fmt: skip
def test_a_label_may_be_missing(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    examples = list(ExampleReader(tmp_path / name, UNLABELLED))
    assert [example.texts for example in examples] == [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    assert [example.label for example in examples] == [1, 0, None, None]


def test_what_separates_rows_does_not_make_more_of_them(tmp_path):
    rows = [ScoredRow(("a\rb", 'c, "d"'), 0.5), ScoredRow(("e\nf", "g\th"), 0.25, 1.0, 0.75, True)]
    for kind in ("tsv", "csv", "jsonl"):
        assert write_scored(tmp_path / f"a.{kind}", rows) == 2
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert [row[:2] for row in csv.reader(file)] == [["text1", "text2"], ["a\rb", 'c, "d"'], ["e\nf", "g\th"]]
    lines = (tmp_path / "a.tsv").read_bytes().decode().split("\n")
    assert lines == [
        "text1\ttext2\tlabel\tscore\tprobability\tdecision",
        'a b\tc, "d"\t\t0.5\t\t',
        "e f\tg h\t1\t0.25\t0.75\t1",
        "",
    ]


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "－1"]


def test_a_spreadsheet_runs_no_text_and_reads_numbers_as_numbers(tmp_path):
    rows = [ScoredRow((text, "还款; =1"), -0.25, 1.0, 0.75, False) for text in [*FORMULAS, "plain - text"]]
    assert write_scored(tmp_path / "a.csv", rows, spreadsheet=True) == len(rows)
    content = (tmp_path / "a.csv").read_bytes()
    assert content.startswith(b'\xef\xbb\xbf"text1","text2",')
    lines = content.decode("utf-8-sig").split("\r\n")
    assert lines[1] == '"\'=1+1","还款; =1",1,-0.25,0.75,0'
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8-sig") as file:
        first = [row[0] for row in csv.reader(file)][1:]
    assert first == [*(f"'{text}" for text in FORMULAS), "plain - text"]
    read = list(ExampleReader(tmp_path / "a.csv", UNLABELLED))
    assert read[-1].texts == ("plain - text", "还款; =1")
    write_scored(tmp_path / "b.csv", rows)
    assert (tmp_path / "b.csv").read_bytes().startswith(b"text1,text2,label")
    assert b"\n=1+1," in (tmp_path / "b.csv").read_bytes()  # as it is, for programs


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_what_is_for_a_spreadsheet_is_csv(tmp_path, name):
    with pytest.raises(UserError, match=r"spreadsheet=True is for a \.csv file"):
        write_scored(tmp_path / name, [], spreadsheet=True)
