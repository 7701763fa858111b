"""`-` in the place of files: what comes in and what goes out is the same."""

import io
import subprocess
import sys

import numpy as np
import pytest

from cosent import UserError
from cosent.cli.standard_streams import check_streams
from tests.cli.conftest import cosent
from tests.conftest import DATA, ROOT

TEST = DATA / "zh" / "test.txt"


def test_pairs_come_in_and_scores_go_out(classic_run, tmp_path):
    flags = ["predict", "--model_name_or_path", classic_run[1], "--device=cpu"]
    named = cosent(*flags, "--input_path", TEST, "--output_path", tmp_path / "out.tsv")
    assert named.status == 0, named.stderr
    streamed = cosent(*flags, "--input_path=-", "--output_path=-", stdin=TEST.read_bytes())
    assert streamed.status == 0, streamed.stderr
    assert streamed.output == (tmp_path / "out.tsv").read_bytes()
    assert "Scored 160 pairs" in streamed.stderr  # what is said goes elsewhere
    assert "Written to standard output\n" in streamed.stderr
    to_file = cosent(*flags, "--input_path=-", "--output_path", tmp_path / "two.tsv", stdin=TEST.read_bytes())
    assert "Scored 160 pairs" in to_file.stdout
    assert (tmp_path / "two.tsv").read_bytes() == (tmp_path / "out.tsv").read_bytes()


@pytest.mark.parametrize(
    ("kind", "content"),
    [("csv", 'id,text1,text2\n1,"a, b",c\n'), ("jsonl", '{"text1": "a, b", "text2": "c"}\n'), ("tsv", "a, b\tc\n")],
)
def test_standard_input_may_be_of_several_kinds(classic_run, kind, content):
    flags = ["--model_name_or_path", classic_run[1], "--device=cpu", "--input_path=-", "--output_path=-"]
    done = cosent("predict", *flags, "--input_format", kind, stdin=content.encode())
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("a, b\tc\t\t")


def test_texts_come_in_and_an_array_goes_out(tiny_bert, tmp_path):
    flags = ["encode", "--model_name_or_path", tiny_bert, "--device=cpu"]
    (tmp_path / "texts.txt").write_text("怎么还款\n你好\n", encoding="utf-8")
    assert cosent(*flags, "--input_path", tmp_path / "texts.txt", "--output_path", tmp_path / "x.npy").status == 0
    done = cosent(*flags, "--input_path=-", "--output_path=-", stdin=(tmp_path / "texts.txt").read_bytes())
    assert done.status == 0, done.stderr
    np.testing.assert_array_equal(np.load(io.BytesIO(done.output)), np.load(tmp_path / "x.npy"))
    assert "Embedded 2 distinct texts" in done.stderr
    assert "Written to standard output: 2 rows of 32 dimensions" in done.stderr


@pytest.mark.slow
def test_a_pipe_between_processes(tiny_bert):
    flags = ["--model_name_or_path", str(tiny_bert), "--device=cpu", "--input_path", "-", "--output_path", "-"]
    command = [sys.executable, "-m", "cosent", "encode", *flags]
    done = subprocess.run(command, cwd=ROOT, input="你好\n".encode(), capture_output=True, check=True)
    assert np.load(io.BytesIO(done.stdout)).shape == (1, 32)


def test_one_pair_is_answered_at_once(classic_run):
    done = cosent("predict", classic_run[1], "怎么还款", "如何还款", "--device=cpu")
    assert done.status == 0, done.stderr
    names, values = zip(*(line.split("\t") for line in done.stdout.splitlines()), strict=True)
    assert names == ("score", "probability", "decision")
    flags = ["--model_name_or_path", classic_run[1], "--device=cpu", "--input_path=-", "--output_path=-"]
    row = cosent("predict", *flags, stdin="怎么还款\t如何还款\n".encode()).stdout.splitlines()[1].split("\t")
    assert [float(value) for value in values] == pytest.approx([float(value) for value in row[3:]], abs=1e-6)


def test_a_pair_wants_a_threshold_and_may_lack_a_probability(error_of, tiny_bert):
    assert "stores no threshold: give one (--threshold 0.7, say)" in error_of(
        "predict", tiny_bert, "a", "b", "--device=cpu"
    )
    done = cosent("predict", tiny_bert, "a", "b", "--device=cpu", "--threshold=-1")
    assert done.stdout.splitlines()[1:] == ["probability\t", "decision\t1"]


def test_closed_standard_output_is_said(monkeypatch):
    monkeypatch.setattr("cosent.cli.standard_streams.sys.stdout", None)
    with pytest.raises(UserError, match="standard output is closed; name a file with --output_path"):
        check_streams("-", "-", None)


def test_mistakes_name_the_stream(error_of, tiny_bert, monkeypatch):
    flags = ["--model_name_or_path", tiny_bert, "--device=cpu", "--output_path=-"]
    done = cosent("predict", *flags, "--input_path=-", "--threshold=0", stdin=b"one text\n")
    assert (done.status, done.stdout) == (1, "")
    assert "error: standard input: 1 of 1 rows cannot be used" in done.stderr
    named = error_of("encode", *flags, "--input_path", TEST, "--input_format=csv")
    assert "--input_format is of standard input" in named
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "several processes cannot share" in error_of("encode", *flags, "--input_path=-")
