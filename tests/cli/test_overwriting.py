"""No command overwrites data, a model or another person's files unasked."""

import pytest

from tests.cli.conftest import cosent
from tests.cli.test_build_backbone import build
from tests.cli.test_run_folder import flags

ROWS = "a\tb\t1\nc\td\t0\n"


@pytest.mark.parametrize("output", ["d.tsv", "sub/../d.tsv", "link.tsv"])
def test_check_keeps_its_data(error_of, tmp_path, output):
    data = tmp_path / "d.tsv"
    data.write_text(ROWS)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.tsv").symlink_to(data)
    assert "d.tsv is data" in error_of("check", data, "--output_path", tmp_path / output)
    assert data.read_text() == ROWS
    done = cosent("check", data, "--output_path", tmp_path / "found.json")
    assert done.status == 0, done.stderr
    done = cosent("check", data, "--output_path", tmp_path / "found.json")  # its own earlier output may go
    assert done.status == 0, done.stderr


@pytest.mark.parametrize("given", ["predictions.tsv", "", "*.tsv"])
def test_test_keeps_its_data(error_of, tiny_bert, tmp_path, given):
    data = tmp_path / "predictions.tsv"
    data.write_text(ROWS)
    command = ("test", "--model_name_or_path", tiny_bert, "--test_data_path", tmp_path / given)
    assert "predictions.tsv is data" in error_of(*command, "--output_dir", tmp_path)
    assert data.read_text() == ROWS


def test_compare_keeps_its_data(error_of, tiny_bert, tmp_path):
    data = tmp_path / "disagreements.tsv"
    data.write_text(ROWS)
    command = ("compare", tiny_bert, tiny_bert, "--test_data_path", data, "--output_dir", tmp_path)
    assert "disagreements.tsv is data" in error_of(*command)


def test_a_backbone_is_not_built_over_a_model(tmp_path):
    build(tmp_path / "one")
    weights = (tmp_path / "one" / "model.safetensors").read_bytes()
    refused = build(tmp_path / "one", "--seed=1")
    assert refused.status == 1
    assert "holds config.json, model.safetensors" in refused.stderr and "--overwrite_output_dir True" in refused.stderr
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == weights
    assert build(tmp_path / "one", "--seed=1", "--overwrite_output_dir=True").status == 0
    assert (tmp_path / "one" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "command.txt", "train_results.json", "1_Pooling/x"])
def test_training_keeps_files_that_are_no_runs(error_of, tiny_bert, tmp_path, name):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    error = error_of("train", *flags(tiny_bert, tmp_path / "mine"))
    assert f"files that are no run's and that this run would overwrite ({name.partition('/')[0]})" in error
    assert "--overwrite_output_dir True" in error
    assert [file.name for file in (tmp_path / "mine").iterdir()] == [name.partition("/")[0]]
    assert path.read_text() == "mine"


def test_training_goes_to_a_folder_with_other_files_or_of_a_run_that_came_to_nothing(tiny_bert, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "command.txt").write_text("cosent train --max_steps 3\n")
    (tmp_path / "eval_results.json").write_text("{}")
    done = cosent("train", *flags(tiny_bert, tmp_path, max_steps=1, eval_strategy="no"))
    assert done.status == 0, done.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_link_to_nothing_is_called_that(error_of, tiny_bert, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    error = error_of("train", *flags(tiny_bert, tmp_path / "link"))
    assert "link to what does not exist" in error and "it is a file" not in error
