"""What the README says about code is run."""

import re
from dataclasses import fields

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(code, folder, monkeypatch):
    """The names that some code of the README leaves behind."""
    (folder / "models").symlink_to(ROOT / "models")
    (folder / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(folder)
    scope: dict = {}
    exec(code, scope)
    return scope


def test_the_quickstart_runs_as_written(minilm, tmp_path, monkeypatch):
    quickstart = PYTHON[0]
    assert len(quickstart.strip().splitlines()) <= 15
    scope = run(quickstart, tmp_path, monkeypatch)
    assert scope["embeddings"].shape == (2, 384)
    assert scope["similarity"].shape == (1, 2)
    assert scope["matches"].shape == (1,)


def test_each_loss_gets_the_data_that_it_learns_from(minilm, tmp_path, monkeypatch):
    scope = run(PYTHON[1], tmp_path, monkeypatch)
    examples = [scope[name] for name in ("simcse", "contrastive", "pairs", "triplet")]
    assert [len(data) for _, data in examples] == [500, 200, 128, 163]
    assert all(data.data_format in loss.data_formats for loss, data in examples)
    assert len(PYTHON) == 2


def test_every_flag_that_it_names_exists():
    from transformers import HfArgumentParser

    from cosent.inference.embeddings import EncodingOptions
    from cosent.training.arguments import (
        CosentTrainingArguments,
        DataArguments,
        DecisionArguments,
        LossArguments,
        ModelArguments,
    )

    parser = HfArgumentParser(
        (ModelArguments, DataArguments, LossArguments, DecisionArguments, CosentTrainingArguments)
    )
    elsewhere = {
        "--nproc_per_node",
        "--num_processes",
        "--corpus",
        "--index_data_path",
        "--help",
    }  # torchrun, scripts, argparse
    elsewhere |= {"--nnodes", "--standalone", "--rdzv_backend", "--rdzv_id", "--rdzv_endpoint", "--max"}
    elsewhere |= {"--report", "--base_model_name_or_path", "--data_path", "--write_split", "--fractions"}
    elsewhere |= {"--multi_gpu", "--num_machines", "--mixed_precision", "--dynamo_backend"}  # accelerate
    elsewhere |= {f"--{option.name}" for option in fields(EncodingOptions)} | {"--input_path", "--output_path"}
    known = {option for action in parser._actions for option in action.option_strings} | elsewhere
    named = set(re.findall(r"--[a-z][a-z0-9_]+", README)) - known
    assert not named


def test_every_path_that_it_names_exists():
    for path in re.findall(r"\b(?:scripts|data|benchmarks|cosent)/[\w./]+\w", README):
        assert (ROOT / path).exists(), path
