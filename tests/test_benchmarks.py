import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT
from tests.new_bytes import length_of_new_bytes
from tests.processes import run_forked

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
    """What a benchmark prints; it and its processes are forked, to save them their imports."""
    done = run_forked(ROOT / "tests" / "forking_benchmark.py", BENCHMARKS / name, *flags)
    assert done.status == 0, done.stderr
    return done.stdout


def printed_by_itself(name: str, *flags: str) -> str:
    """What a benchmark prints that starts as a user starts it."""
    command = [sys.executable, str(BENCHMARKS / name), *flags]
    return subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=True).stdout


def one_thread() -> dict[str, str]:
    """The environment, with a single thread: tiny models wait for others longer than they compute."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


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
    flags = ("--losses", "infonce", "--max_exponent", "8", "--dim", "4", "--device", "cpu", "--max_gib", "0.000005")
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        printed("large_batch.py", *"--sizes 4 8 --piece 4 --dtype fp32 --device cpu --seconds 0.01".split())
    )
    losses = ("cosent", "infonce", "batch_hard_triplet")
    assert [row[0] for row in rows] == [f"{loss}, {size}" for loss in losses for size in (4, 8)]
    assert all(re.fullmatch(r"[\d.]+ s, [\d.]+ GiB", cell) for row in rows for cell in row[1:3])
    assert [row[3] == "has none" for row in rows] == [True, True, False, False, True, True]
    assert all(float(row[4]) > 0 and float(row[5]) > 0 for row in rows)
    assert len(header) == 7


@pytest.mark.slow
def test_what_would_be_too_much_is_not_run(minilm):
    flags = "--losses cosent --sizes 4 4000 --dtype fp32 --device cpu --seconds 0.01 --max_seconds 0.1".split()
    _, rows = table_of(printed_by_itself("large_batch.py", *flags))
    assert rows[1][1:3] == ["not run: time", "not run: time"]


@pytest.mark.slow
def test_quality_by_batch_tunes_keeps_its_runs_and_draws_them(tiny_bert, tmp_path):
    zh = ROOT / "data" / "zh"
    flags = [
        *("--cpu", "--model_name_or_path", str(tiny_bert), "--results", str(tmp_path / "runs.jsonl")),
        *("--train_data_path", str(zh / "train.txt"), "--eval_data_path", str(zh / "dev.txt")),
        *("--test_data_path", str(zh / "test.txt"), "--batches", "64", "192", "--epochs", "1", "--seeds", "1", "2"),
        *("--learning_rate", "3e-3"),  # from which it is not far to the best
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


# tiny encoders and few steps: what a GPU measures, run for the sake of running it
TINY_GPU = (
    "--device cpu --shape tiny --precision fp32 --batch 8 --untimed 2 --steps 3 --step_seconds 0 --texts 100 "
    "--large_batch 48 --micro_batch_tokens 512 --compile_backend eager"
)


@pytest.fixture
def gpu(measuring, monkeypatch):
    """Imports a module of the GPU benchmark, as its command does."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHMARKS:
            del sys.modules[name]


@pytest.mark.slow
def test_gpu_measures_every_row(tmp_path: Path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path), *TINY_GPU.split()]
    subprocess.run(command, check=True, env=one_thread() | {"HF_HOME": str(tmp_path / "cache")})
    assert not (tmp_path / "cache").exists()  # it keeps nothing but its page
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    assert [row["status"] for row in rows] == ["measured"] * 21
    assert rows[0]["name"] == ["tiny for macbert-large, sample data/zh/train.txt", "cosent, graphs auto"]
    trained = [row["figures"] for row in rows if row["table"] in ("Training", "Large batches")]
    for figures in trained:
        assert figures["timed_steps"] >= 3
        assert figures["step_ms"] * figures["timed_steps"] == pytest.approx(figures["timed_seconds"] * 1e3)
    compiled = [row["figures"]["compiled_graphs"] for row in rows if row["name"][1].endswith("compiled")]
    assert len(compiled) == 2 and min(compiled) > 0
    profiles = [row["figures"] for row in rows if row["table"].startswith("Profile")]
    assert [len(figures["top"]) for figures in profiles] == [12, 12]
    assert 0 < profiles[0]["busy_ms"] <= profiles[0]["profiled_step_ms"]

    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "FAILED" not in page and "not measured" not in page
    titles = ["Training", "Encoding", "Large batches", "Profile of the device", "Profile of the host"]
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == titles
    assert page.count("\n| tiny for ") == 21
    assert "sample data/train.txt: 384 pairs" in page and " torch " in page


@pytest.mark.slow
def test_gpu_sh_runs_to_the_end_though_rows_fail_and_no_test_is_selected(tmp_path: Path):
    flags = {"GPU_TESTS": "tests/test_similarity.py", "GPU_FLAGS": f"{TINY_GPU} --graphs auto on --only Encoding"}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, env=one_thread() | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
    assert page in done.stdout
    assert re.search(r"- `pytest -m cuda`: .* deselected in .* \(exit code 5\)\n", page)
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))["rows"]
    # there are no graphs on a CPU, and what comes next is measured all the same
    failed = [row for row in rows if row["name"][1] == "cosent, graphs on"]
    assert len(rows) == 6 and len(failed) == 2
    assert all(row["status"].startswith("FAILED: UserError: cuda_graphs='on' needs") for row in failed)
    assert all("Traceback" in row["traceback"] for row in failed)
    assert all(row["status"] == "measured" for row in rows if row not in failed)
    assert page.count("FAILED: UserError") == 2
    assert "Traceback" in (tmp_path / "out" / "gpu.log").read_text(encoding="utf-8")


def test_gpu_page_has_what_is_known_when_the_run_is_killed(gpu, tmp_path: Path):
    def killed() -> dict:
        raise KeyboardInterrupt

    def failing() -> dict:
        raise ValueError("a | b\nand more")

    steps = {"pairs_per_second": 100.0, "step_ms": 10.0, "timed_steps": 3, "untimed_seconds": 1.0, "restarts": 0}
    page, rows = gpu("gpu_page"), gpu("gpu_rows")
    wanted = [
        page.Row("Training", ("bert", "cosent"), lambda: {**steps, "pairs_per_second": 250.0}, 1),
        page.Row("Training", ("bert", page.PEER_STEP), lambda: dict(steps), 1),
        page.Row("Training", ("bert", "fails"), failing, 1),
        page.Row("Training", ("bert", "long"), lambda: dict(steps), 1000),
        page.Row("Training", ("bert", "killed"), killed, 1),
        page.Row("Training", ("bert", "never"), lambda: dict(steps), 1),
    ]
    written = page.Page(tmp_path, torch.device("cpu"), {"versions": "of torch 2"}, wanted)
    with pytest.raises(KeyboardInterrupt):
        rows.measure(written, lambda seconds: seconds < 100)
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "FAILED: ValueError: a \\| b" in text and "and more" not in text
    _, lines = table_of(text.replace("\\|", "/"))
    assert [line[2] for line in lines] == [
        "250", "100", "FAILED: ValueError: a / b", page.NO_TIME, page.NOT_REACHED, page.NOT_REACHED
    ]  # fmt: skip
    assert [line[-1] for line in lines] == ["2.50", "1.00", "", "", "", ""]  # times theirs
    assert len(json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]) == 6


def test_gpu_times_steady_steps_and_begins_afresh_after_a_long_one(gpu, monkeypatch):
    now = 0.0
    speed = gpu("gpu_speed")
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    clock = speed.Stopwatch(
        torch.device("cpu"), batch=8, untimed=40, untimed_seconds=0, steps=4, seconds=0.3, max_seconds=30
    )
    # ten are not timed, until the last five took as long as the five before; then a long one makes three in vain
    taken = [2.0, 1.0, *[0.1] * 8, 0.1, 0.1, 1.5, *[0.1] * 4]
    num_steps = 0
    for _, seconds in zip(clock, taken, strict=False):
        now += seconds
        num_steps += 1
    assert num_steps == len(taken)
    figures = clock.figures
    assert (figures["untimed_steps"], figures["timed_steps"], figures["restarts"]) == (10, 4, 1)
    assert figures["step_ms"] == pytest.approx(100) and figures["pairs_per_second"] == pytest.approx(80)


def test_gpu_times_the_only_step_that_is_left_at_the_time_limit(gpu, monkeypatch):
    now = 0.0
    speed = gpu("gpu_speed")
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now)
    clock = speed.Stopwatch(
        torch.device("cpu"), batch=8, untimed=1, untimed_seconds=0, steps=9, seconds=0.3, max_seconds=3
    )
    for _, seconds in zip(clock, [0.5, 0.5, 2.4, 0.5], strict=False):  # the third makes timing restart
        now += seconds
    assert (clock.figures["timed_steps"], clock.figures["restarts"]) == (1, 1)
    assert clock.figures["step_ms"] == pytest.approx(500)


def test_gpu_counts_overlapping_kernels_once(gpu):
    covered = gpu("gpu_profile").covered
    assert covered([]) == 0
    assert covered([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5


@pytest.mark.parametrize("marked", [{}, {"is_user_annotation": None}])
def test_gpu_tells_named_ranges_from_kernels_whatever_the_version_of_torch(gpu, marked):
    is_annotation = gpu("gpu_profile").is_annotation
    names = ["Optimizer.step#AdamW.step", "void kernel<float>(int)", "ProfilerStep#3", "nvjet_tst_128x128"]
    assert [is_annotation(SimpleNamespace(name=name, **marked)) for name in names] == [True, False, True, False]
    assert is_annotation(SimpleNamespace(name="named by somebody", is_user_annotation=True))
