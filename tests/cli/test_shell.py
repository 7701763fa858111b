"""The two shell scripts, in the environment that they set up themselves."""

import shutil
import sys

import pytest

from tests.cli.conftest import bash
from tests.conftest import DATA, ROOT

pytestmark = pytest.mark.skipif(
    sys.prefix != str(ROOT / ".venv"), reason="the shell scripts set up and use .venv, where these tests do not run"
)


def test_arguments_are_passed_on_and_win(shell, tiny_bert, tmp_path):
    trained = shell(
        "train.sh",
        *("--model_name_or_path", tiny_bert, "--train_data_path", DATA / "zh" / "train.txt", "--max_steps", 1),
        *("--output_dir", tmp_path / "run", "--timestamp_output_dir", "False", "--eval_strategy", "no"),
    )
    assert trained.status == 0, trained.stderr
    assert "384 of data" not in trained.stdout
    assert "eval: " in trained.stdout  # held out: the sample's own eval file does not go with other data
    assert "test: " not in trained.stdout
    tested = shell("test.sh", tmp_path / "run", "--output_dir", tmp_path / "results")
    assert tested.status == 0, tested.stderr
    assert (tmp_path / "results" / "metrics.json").is_file()


def test_flags_may_be_spelt_with_hyphens_but_not_cut_short(shell, tiny_bert, tmp_path):
    trained = shell(
        "train.sh",
        *("--model-name-or-path", tiny_bert, "--train-data-path", DATA / "zh" / "train.txt", "--max_steps", 1),
        *("--output_dir", tmp_path, "--timestamp_output_dir", "False", "--eval_strategy", "no"),
    )
    assert trained.status == 0, trained.stderr
    assert "data/dev.txt" not in trained.stdout
    cut_short = bash("train.sh", "--train_data", "my.tsv")
    assert cut_short.returncode == 2
    assert "no flag --train_data; did you mean --train_data_path?" in cut_short.stderr


def test_without_a_run_it_says_so(tmp_path):
    # a copy without an output folder, its environment set up already
    for name in ("test.sh", "scripts", "data", ".venv", "models", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "test.sh").unlink()
    (tmp_path / "test.sh").write_text((ROOT / "test.sh").read_text())
    done = bash(tmp_path / "test.sh", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no run under output/ yet" in done.stderr


def test_a_failure_is_the_scripts_failure(shell, tmp_path):
    done = shell("test.sh", tmp_path)
    assert done.status == 1
    assert "is no model folder" in done.stderr
    # what is told before anything is imported
    done = bash("test.sh", tmp_path, "--test_data_path", "none.tsv")
    assert done.returncode == 1
    assert "none.tsv does not exist" in done.stderr


@pytest.mark.slow
def test_relative_paths_are_the_callers_and_the_sample_is_the_repositorys(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "model")
    shutil.copy(DATA / "zh" / "train.txt", tmp_path / "mine.tsv")
    flags = ("--max_steps", 1, "--eval_strategy", "no", "--timestamp_output_dir", "False")
    paths = ("--model_name_or_path", "model", "--train_data_path", "mine.tsv")
    trained = bash(ROOT / "train.sh", *paths, *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "of mine.tsv" in trained.stdout
    tested = bash(ROOT / "test.sh", cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert f"output on 160 pairs of {DATA / 'test.txt'}" in tested.stdout
    assert (tmp_path / "output" / "test-output-data-test" / "metrics.json").is_file()
