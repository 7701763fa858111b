import csv
import json

import pytest

from cosent import SentenceBert
from tests.cli.conftest import cosent
from tests.conftest import DATA

PAIRS = [line.split("\t") for line in (DATA / "zh" / "test.txt").read_text(encoding="utf-8").splitlines()]


def read_rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_scores_probabilities_and_decisions_stand_in_the_files_order(classic_run, tmp_path, kind):
    folder, out = classic_run[1], tmp_path / f"out.{kind}"
    done = cosent("predict", "--model_name_or_path", folder, "--input_path", DATA / "zh" / "test.txt",
                      "--output_path", out, "--device", "cpu")  # fmt: skip
    assert done.status == 0, done.stderr
    assert "Scored 160 pairs; they match from a cosine of" in done.stdout
    rows = read_rows(out)
    assert [[row["text1"], row["text2"]] for row in rows] == [pair[:2] for pair in PAIRS]
    assert [float(row["label"]) for row in rows] == [float(pair[2]) for pair in PAIRS]
    expected = SentenceBert(folder, device="cpu").predict([pair[:2] for pair in PAIRS])
    assert [float(row["score"]) for row in rows] == pytest.approx(list(expected.scores), abs=1e-5)
    assert [float(row["probability"]) for row in rows] == pytest.approx(list(expected.probabilities), abs=1e-4)
    assert [int(row["decision"]) for row in rows] == expected.matches.astype(int).tolist()


def test_pairs_need_no_label_and_may_have_names(classic_run, tmp_path):
    (tmp_path / "plain.tsv").write_text("怎么还款\t如何还款\n你好\t再见\n", encoding="utf-8")
    (tmp_path / "named.csv").write_text('id,question2,question1\n1,"a, b",c\n2,d,e\n', encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"left": "a", "right": "b"}\n', encoding="utf-8")
    cases = (
        ("plain.tsv", [], [("怎么还款", "如何还款"), ("你好", "再见")]),
        ("named.csv", [], [("c", "a, b"), ("e", "d")]),
        ("other.jsonl", ["--text_columns=left,right"], [("a", "b")]),
    )
    for name, more, expected in cases:
        flags = ["--model_name_or_path", classic_run[1], "--input_path", tmp_path / name, "--device=cpu"]
        done = cosent("predict", *flags, "--output_path", tmp_path / "out.tsv", *more)
        assert done.status == 0, done.stderr
        rows = read_rows(tmp_path / "out.tsv")
        assert [(row["text1"], row["text2"]) for row in rows] == expected
        assert {row["label"] for row in rows} == {""}


def test_mistakes_leave_no_output(error_of, classic_run, tiny_bert, tmp_path):
    (tmp_path / "bad.tsv").write_text("a\tb\nc\n")
    (tmp_path / "good.tsv").write_text("a\tb\n")
    tuned = ("--device=cpu", "--model_name_or_path", classic_run[1])
    for flags, message in (
        ((*tuned, "--input_path", tmp_path / "bad.tsv", "--output_path", tmp_path / "out.tsv"), "line 2: 1 columns"),
        ((*tuned, "--input_path", tmp_path / "good.tsv", "--output_path", tmp_path / "out.xlsx"), "not to"),
        ((*tuned, "--input_path", tmp_path / "good.tsv", "--output_path", tmp_path / "good.tsv"), "overwritten"),
        (
            (*tuned, "--input_path", tmp_path / "good.tsv", "--output_path", tmp_path / "out.tsv", "--threshold=2"),
            "is a cosine, from -1 to 1, not 2",
        ),
        (
            ("--device=cpu", "--model_name_or_path", tiny_bert, "--input_path", tmp_path / "good.tsv")
            + ("--output_path", tmp_path / "out.tsv"),
            "stores no threshold: give one (--threshold 0.7, say)",
        ),
    ):
        assert message in error_of("predict", *flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tsv", "good.tsv"]


def test_a_spreadsheet_is_asked_for(classic_run, tmp_path, error_of):
    (tmp_path / "a.tsv").write_text("=SUM(A1)\t怎么还款\n", encoding="utf-8")
    flags = [
        "--model_name_or_path",
        classic_run[1],
        "--input_path",
        tmp_path / "a.tsv",
        "--device=cpu",
        "--spreadsheet",
    ]
    done = cosent("predict", *flags, "--output_path", tmp_path / "out.csv")
    assert done.status == 0, done.stderr
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert '"\'=SUM(A1)","怎么还款","",' in (tmp_path / "out.csv").read_text(encoding="utf-8-sig")
    for path, said in (("out.tsv", "--spreadsheet True is for a .csv file"), ("-", "standard output is tab-separated")):
        assert said in error_of("predict", *flags, "--output_path", path if path == "-" else tmp_path / path)


def test_the_probability_at_the_threshold_is_explained(classic_run, tmp_path):
    folder = classic_run[1]
    decision = SentenceBert(folder, device="cpu").settings.decision
    (tmp_path / "a.tsv").write_text("怎么还款\t如何还款\n", encoding="utf-8")
    flags = ["--model_name_or_path", folder, "--input_path", tmp_path / "a.tsv", "--device=cpu"]
    for more, threshold, origin in (
        ((), decision.threshold, "is the best by accuracy"),
        (["--threshold=0.5"], 0.5, "was given"),
    ):
        done = cosent("predict", *flags, "--output_path", tmp_path / "out.tsv", *more)
        probability = float(decision.calibration(threshold))
        assert f"At the threshold of {threshold:.4f} the probability is {probability:.2f}. It need not" in done.stdout
        assert f"the threshold {origin}, and probabilities are fitted to the scores on their own.\n" in done.stdout
    pair = cosent("predict", folder, "怎么还款", "如何还款", "--device=cpu")
    assert f"At the threshold of {decision.threshold:.4f} the probability is" in pair.stderr
