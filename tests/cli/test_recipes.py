"""Each recipe with the tiny model, on a little data in the layout that it asks for."""

import shutil
import sys

import pytest

from tests.cli.conftest import bash, read_json
from tests.conftest import DATA, ROOT

pytestmark = pytest.mark.skipif(
    sys.prefix != str(ROOT / ".venv"), reason="the recipes set up and use .venv, where these tests do not run"
)


@pytest.fixture
def recipe(shell, tiny_bert, tmp_path):
    """Runs a recipe for two steps in a folder of its own, and gives what it printed."""

    def run(name, *more):
        flags = ("--max_steps", 2, "--eval_strategy", "steps", "--eval_steps", 1, "--bf16", "False", *more)
        done = shell(f"scripts/recipes/{name}", tiny_bert, "data", *flags, cwd=tmp_path)
        assert done.status == 0, done.stderr
        return done.stdout

    return run


def test_cosent_on_lcqmc(recipe, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        shutil.copy(DATA / "zh" / f"{name}.txt", tmp_path / "data" / f"{name}.tsv")
    output = recipe("cosent_lcqmc.sh", "--output_dir", tmp_path / "run", "--timestamp_output_dir", "False")
    assert "test accuracy by eval threshold" in output
    settings = read_json(tmp_path / "run" / "cosent_config.json")
    assert settings["loss"] == {"name": "CoSENTLoss", "scale": 20.0}
    assert settings["decision"]["num_pairs"] == 96


def test_simcse_on_the_chinese_tasks(recipe, tmp_path, monkeypatch):
    for task in ("BQ", "STS-B"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for name, source in (("train", "train"), ("valid", "dev"), ("test", "test")):
            shutil.copy(DATA / "zh" / f"{source}.txt", tmp_path / "data" / task / f"{task}.{name}.data")
    monkeypatch.setenv("POOLING", "first_last_avg")
    monkeypatch.setenv("DROPOUT", "0.3")
    output = recipe("simcse_chinese.sh", "--output_dir", tmp_path / "run", "--max_train_samples", 50)
    assert [line for line in output.splitlines() if line.startswith("==")] == ["== BQ", "== STS-B"]
    assert output.count("train: 50 sentences") == output.count("first_last_avg pooling") == 2
    assert output.count("test spearman") == 2
    for folder in (tmp_path / "run").iterdir():
        assert read_json(folder / "config.json")["hidden_dropout_prob"] == 0.3
        assert read_json(folder / "cosent_config.json")["loss"]["name"] == "InfoNCELoss"


def test_simcse_without_any_task_says_so(tiny_bert, tmp_path):
    done = bash(ROOT / "scripts" / "recipes" / "simcse_chinese.sh", tiny_bert, tmp_path)
    assert done.returncode == 1
    assert "holds none of the folders ATEC" in done.stderr


def test_batch_hard_on_intents(recipe, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        rows = (DATA / f"classes.{name}.tsv").read_text(encoding="utf-8").splitlines()
        quoted = ['"' + text.replace('"', '""') + f'",{label}' for text, label in (row.split("\t") for row in rows)]
        (tmp_path / "data" / f"{name}.csv").write_text("\n".join(["text,category", *quoted]), encoding="utf-8")
    output = recipe(
        "batch_hard_intents.sh", "--max_length", 64, "--output_dir", tmp_path / "run", "--timestamp_output_dir", "False"
    )
    assert "test knn accuracy" in output
    assert "'hardest_positive'" in output
    loss = read_json(tmp_path / "run" / "cosent_config.json")["loss"]
    assert (loss["name"], loss["distance"], loss["margin"]) == ("BatchHardTripletLoss", "euclidean", 1.0)


@pytest.mark.parametrize("name", ["cosent_lcqmc.sh", "simcse_chinese.sh", "batch_hard_intents.sh"])
def test_a_recipe_asks_for_what_it_needs(name):
    done = bash(ROOT / "scripts" / "recipes" / name)
    assert done.returncode != 0
    assert "which model?" in done.stderr
