import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def measuring(monkeypatch):
    """The module that the benchmarks share, as they import it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.find_spec("measuring")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "measuring", module)
    spec.loader.exec_module(module)
    return module


def printed(name: str, *flags: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(BENCHMARKS / name), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table_of(text: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table in it."""
    header, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert all(set(cell) <= set("-:") for cell in rule)
    assert " torch " in text  # the versions
    return header, rows


def printed_table(name: str, *flags: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows that a benchmark prints."""
    return table_of(printed(name, *flags))


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_loss_scaling_prints_a_row_for_each_loss_and_batch():
    header, rows = printed_table("loss_scaling.py", "--max_exponent", "8", "--dim", "4", "--device", "cpu")
    assert header == ["loss", "B", "ours, ms", "theirs, ms", "ratio", "ours, MiB", "theirs, MiB", "ratio"]
    losses = ["cosent", "infonce", "batch_hard_triplet"]
    assert [row[:2] for row in rows] == [[loss, size] for loss in losses for size in ("64", "256")]
    assert all(number(cell) > 0 for row in rows for cell in row[2:4])


def test_loss_scaling_leaves_out_what_needs_too_much_memory():
    flags = ("--losses", "infonce", "--max_exponent", "8", "--dim", "4", "--device", "cpu", "--max_gib", "0.00001")
    _, rows = printed_table("loss_scaling.py", *flags)
    assert number(rows[0][2]) > 0
    assert rows[1] == ["infonce", "256", *["not run: memory"] * 2, "-", *["not run: memory"] * 2, "-"]


def test_metrics_scaling_finds_the_same_figures_as_the_peers():
    header, rows = printed_table("metrics_scaling.py", "--max_exponent", "4")
    assert header[:3] == ["metrics", "pairs", "ours, ms"]
    assert [row[:2] for row in rows] == [
        [name, size] for name in ("thresholds", "decisions", "correlations") for size in ("1,000", "10,000")
    ]
    assert all(number(row[3]) > 0 for row in rows)
    assert all(number(row[-1]) < 1e-6 for row in rows)  # a peer's threshold is in float32


@pytest.mark.slow  # five processes, each with its imports
def test_data_scaling_reads_and_tokenises(tiny_bert: Path):
    flags = ("--model_name_or_path", str(tiny_bert), "--max_exponent", "4", "--max_tokenised_exponent", "4")
    header, rows = printed_table("data_scaling.py", *flags)
    assert header[:4] == ["step", "rows", "ours, rows/s", "ours, MiB"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("read", "10,000", "datasets"),
        ("read", "10,000", "pandas"),
        ("tokenise", "10,000", "tokenizer alone"),
    ]
    assert all(number(row[2]) > 0 and number(row[5]) > 0 for row in rows)


def test_table_is_aligned_markdown(measuring):
    assert measuring.table(["what", "n"], [["a", "1"], ["b", "1,000"]]) == (
        "| what |     n |\n| ---- | ----: |\n| a    |     1 |\n| b    | 1,000 |"
    )


def test_machine_names_the_versions(measuring):
    hardware, versions = measuring.machine("cpu").splitlines()
    assert "torch threads" in hardware
    assert f"Python {sys.version_info.major}." in versions and "sentence-transformers" in versions


@pytest.mark.parametrize("private", [False, True])
def test_a_process_of_its_own_reports_what_a_call_takes(measuring, private: bool):
    size = 200 * 2**20
    here = bytearray(b"x") * (2 * size)  # the parent's memory is not the child's
    result, peak = measuring.in_own_process(length_of_new_bytes, size, private=private)
    assert result == size
    assert 0.9 * size < peak < 1.3 * size
    assert len(here) == 2 * size


def test_peak_memory_counts_from_where_it_starts(measuring):
    length_of_new_bytes(300 * 2**20)  # an earlier, higher peak
    with measuring.PeakMemory() as peak:
        length_of_new_bytes(100 * 2**20)
    assert 0.9 * 100 * 2**20 < peak.bytes < 1.5 * 100 * 2**20


def test_functions_are_timed_in_turns(measuring):
    calls = []
    seconds = measuring.in_turns([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert calls == ["a", "b", "a", "b"]
    assert [len(taken) for taken in seconds] == [2, 2]


def length_of_new_bytes(size: int) -> int:
    return len(bytearray(b"x") * size)


@pytest.mark.slow  # four processes, each with its imports
def test_train_throughput_trains_both_sides_alike(tiny_bert: Path):
    flags = ("--data", str(ROOT / "data" / "train.txt"), "--shape", str(tiny_bert), "--pairs", "128", "--batch", "16")
    flags += ("--rounds", "1", "--precision", "fp32", "--max_length", "64", "--device", "cpu")
    text = printed("train_throughput.py", *flags)
    header, rows = table_of(text)
    assert float(re.search(r"losses of 8 steps without dropout differ by (\S+) at most", text)[1]) < 1e-5
    assert header[:5] == ["encoder", "precision", "ours, pairs/s", "theirs, pairs/s", "ratio"]
    [row] = rows
    assert row[:2] == [str(tiny_bert), "fp32"]
    assert number(row[2]) / number(row[3]) == pytest.approx(number(row[4]), rel=0.1)


@pytest.mark.slow  # two processes
def test_encode_throughput_encodes_both_sides_alike(tiny_bert: Path):
    flags = ("--data", str(ROOT / "data" / "train.txt"), "--shape", str(tiny_bert), "--texts", "200", "--rounds", "1")
    flags += ("--max_length", "64")
    header, rows = printed_table("encode_throughput.py", *flags, "--precision", "fp32", "--device", "cpu")
    assert header[:5] == ["encoder", "precision", "ours, texts/s", "theirs, texts/s", "ratio"]
    assert header[-1] == "least cosine"
    assert number(rows[0][-1]) > 0.9999  # of the two sides' embeddings of a text


@pytest.mark.slow
def test_profile_step_shares_out_the_whole_step(tiny_bert: Path):
    flags = ("--data", str(ROOT / "data" / "train.txt"), "--shape", str(tiny_bert), "--batch", "8")
    header, rows = printed_table("profile_step.py", *flags)
    assert header == ["kind", "share"]
    assert sum(float(row[1].rstrip("%")) for row in rows) == pytest.approx(100, abs=1)
    assert {"matrix products", "attention", "dropout", "optimizer"} <= {row[0] for row in rows}


@pytest.mark.slow
def test_large_batches_beside_the_peer(minilm):
    header, rows = table_of(
        printed("large_batch.py", *"--sizes 4 16 --piece 4 --dtype fp32 --device cpu --seconds 1".split())
    )
    losses = ("cosent", "infonce", "batch_hard_triplet")
    assert [row[0] for row in rows] == [f"{loss}, {size}" for loss in losses for size in (4, 16)]
    assert all(re.fullmatch(r"[\d.]+ s, [\d.]+ GiB", cell) for row in rows for cell in row[1:3])
    assert [row[3] == "has none" for row in rows] == [True, True, False, False, True, True]
    assert all(float(row[4]) > 0 and float(row[5]) > 0 for row in rows)
    assert len(header) == 7


@pytest.mark.slow
def test_what_would_be_too_much_is_not_run(minilm):
    flags = ("--losses", "cosent", "--sizes", "4", "4000", "--seconds", "1", "--max_seconds", "0.1")
    _, rows = table_of(printed("large_batch.py", *flags))
    assert rows[1][1:3] == ["not run: time", "not run: time"]


@pytest.mark.slow
def test_quality_by_batch_tunes_keeps_its_runs_and_draws_them(tiny_bert, tmp_path):
    zh = ROOT / "data" / "zh"
    flags = [
        *("--cpu", "--model_name_or_path", str(tiny_bert), "--results", str(tmp_path / "runs.jsonl")),
        *("--train_data_path", str(zh / "train.txt"), "--eval_data_path", str(zh / "dev.txt")),
        *("--test_data_path", str(zh / "test.txt"), "--batches", "64", "192", "--epochs", "1", "--seeds", "1", "2"),
    ]
    _, rows = table_of(printed("batch_quality.py", *flags))
    assert [row[:2] for row in rows] == [["64", "6"], ["192", "2"]]
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    for batch in (64, 192):
        tried = [run for run in runs if run["batch"] == batch and run["seed"] == 1]
        assert len(tried) >= 3
        best = max(tried, key=lambda run: run["eval_quality"])
        (other,) = [run for run in runs if run["batch"] == batch and run["seed"] == 2]
        assert other["learning_rate"] == best["learning_rate"]
    again = printed("batch_quality.py", *flags)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(runs)  # nothing is trained twice
    assert table_of(again)[1] == rows
