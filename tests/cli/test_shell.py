"""The two shell scripts, in the environment that they set up themselves."""

import sys

import pytest

from tests.conftest import DATA, ROOT
from tests.scripts.conftest import bash

pytestmark = pytest.mark.skipif(
    sys.prefix != str(ROOT / ".venv"), reason="the shell scripts set up and use .venv, where these tests do not run"
)


def test_arguments_are_passed_on_and_win(tiny_bert, tmp_path):
    trained = bash(
        "train.sh",
        *("--model_name_or_path", tiny_bert, "--train_data_path", DATA / "zh" / "train.txt", "--max_steps", 1),
        *("--output_dir", tmp_path / "run", "--timestamp_output_dir", "False", "--eval_strategy", "no"),
    )
    assert trained.returncode == 0, trained.stderr
    assert "384 of data" not in trained.stdout
    assert "eval: " in trained.stdout  # held out: the sample's own eval file does not go with other data
    assert "test: " not in trained.stdout
    tested = bash("test.sh", tmp_path / "run", "--output_dir", tmp_path / "results", cwd=ROOT)
    assert tested.returncode == 0, tested.stderr
    assert (tmp_path / "results" / "metrics.json").is_file()


def test_flags_may_be_spelt_with_hyphens_but_not_cut_short(tiny_bert, tmp_path):
    trained = bash(
        "train.sh",
        *("--model-name-or-path", tiny_bert, "--train-data-path", DATA / "zh" / "train.txt", "--max_steps", 1),
        *("--output_dir", tmp_path, "--timestamp_output_dir", "False", "--eval_strategy", "no"),
    )
    assert trained.returncode == 0, trained.stderr
    assert "data/dev.txt" not in trained.stdout
    cut_short = bash("train.sh", "--train_data", "my.tsv")
    assert cut_short.returncode == 1
    assert "--train_data" in cut_short.stderr


def test_without_a_run_it_says_so(tmp_path):
    # a copy without an output folder, its environment set up already
    for name in ("test.sh", "scripts", "data", ".venv", "models", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "test.sh").unlink()
    (tmp_path / "test.sh").write_text((ROOT / "test.sh").read_text())
    done = bash(tmp_path / "test.sh", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no run under output/ yet" in done.stderr


def test_a_failure_is_the_scripts_failure(tmp_path):
    done = bash("test.sh", tmp_path)
    assert done.returncode == 1
    assert "is no model folder" in done.stderr


@pytest.mark.parametrize(
    ("loss", "understood"),
    [
        ("infonce", ["train: 200 triplets of data/triplets.train.tsv", "test: 160 pairs", "'masked_negatives'"]),
        ("batch_hard_triplet", ["train: 163 texts with a class", "1 of 21 classes", "test knn accuracy"]),
    ],
)
def test_each_loss_has_sample_data_of_its_own(tiny_bert, tmp_path, loss, understood):
    flags = ("--model_name_or_path", tiny_bert, "--max_length", 64, "--max_steps", 2, "--eval_strategy", "no")
    trained = bash("train.sh", "--loss", loss, *flags, "--output_dir", tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert all(words in trained.stdout + trained.stderr for words in understood)
