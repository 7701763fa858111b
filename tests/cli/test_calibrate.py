import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from cosent import SentenceBert
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA

TEST = DATA / "zh" / "test.txt"


@pytest.fixture
def run_folder(classic_run, tmp_path):
    return shutil.copytree(classic_run[1], tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))


def test_the_threshold_is_chosen_anew_and_nothing_else_changes(run_folder):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    done = cosent("calibrate", "--model_name_or_path", run_folder, "--data_path", TEST, "--device=cpu",
                      "--threshold_metric=recall@0.9", "--calibration=isotonic")  # fmt: skip
    assert done.status == 0, done.stderr
    assert "chosen now: threshold" in done.stdout
    assert "by recall@0.9, probabilities by isotonic" in done.stdout
    changed = [name for name, content in before.items() if (run_folder / name).read_bytes() != content]
    assert changed == ["cosent_config.json"]
    config = read_json(run_folder / "cosent_config.json")
    assert config["decision"]["calibrated_on"] == str(TEST)
    assert config["decision"]["num_pairs"] == 160
    assert config["loss"]["name"] == "CoSENTLoss"

    model = SentenceBert(run_folder, device="cpu")
    rows = [line.split("\t") for line in TEST.read_text(encoding="utf-8").splitlines()]
    found = model.predict([row[:2] for row in rows])
    matches = np.array([row[2] == "1" for row in rows])
    assert found.matches[matches].mean() >= 0.9
    assert found.matches[~matches].mean() < 1
    assert found.probabilities.mean() == pytest.approx(matches.mean(), abs=0.02)  # as isotonic regression has it


def test_a_folder_of_others_can_be_calibrated_and_stays_what_it_is(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "plain")
    files = {path.name for path in folder.iterdir()}
    done = cosent("calibrate", "--model_name_or_path", folder, "--data_path", TEST, "--device=cpu")
    assert done.status == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == files | {"cosent_config.json"}
    assert load_file(folder / "model.safetensors").keys() == load_file(tiny_bert / "model.safetensors").keys()
    assert SentenceBert(folder, device="cpu").predict([("a", "b")]).probabilities is not None


def test_mistakes_end_in_one_clear_line(error_of, run_folder, tmp_path):
    flags = ("--model_name_or_path", run_folder, "--device=cpu")
    assert "labels are graded" in error_of("calibrate", *flags, "--data_path", DATA / "test.txt")
    asked = error_of("calibrate", *flags, "--data_path", TEST, "--threshold_metric=precision")
    assert "a threshold is chosen by accuracy" in asked
    (tmp_path / "none.tsv").write_text("a\tb\t0\nc\td\t2\n")
    low = ("--positive_label_min=-1", "--data_path", tmp_path / "none.tsv")
    assert "every label reaches" in error_of("calibrate", *flags, *low)
    (tmp_path / "link").symlink_to(run_folder)
    linked = ("--model_name_or_path", tmp_path / "link", "--data_path", TEST)
    assert "is a link to a folder of others" in error_of("calibrate", *linked)
    assert "is no folder" in error_of("calibrate", "--model_name_or_path", "a/hub-id", "--data_path", TEST)
