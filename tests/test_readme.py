"""What the README says about code is run."""

import re

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_runs_as_written(minilm, tmp_path, monkeypatch):
    (quickstart,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(quickstart.strip().splitlines()) <= 15
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(quickstart, scope)
    assert scope["embeddings"].shape == (2, 384)
    assert scope["similarity"].shape == (1, 2)
    assert scope["matches"].shape == (1,)


def test_every_flag_that_it_names_exists():
    from transformers import HfArgumentParser

    from cosent.training.arguments import CosentTrainingArguments, DataArguments, LossArguments, ModelArguments

    parser = HfArgumentParser((ModelArguments, DataArguments, LossArguments, CosentTrainingArguments))
    elsewhere = {"--nproc_per_node", "--corpus", "--help"}  # torchrun's, build_backbone.py's, argparse's
    known = {option for action in parser._actions for option in action.option_strings} | elsewhere
    named = set(re.findall(r"--[a-z][a-z0-9_]+", README)) - known
    assert not named


def test_every_path_that_it_names_exists():
    for path in re.findall(r"\b(?:scripts|data|benchmarks|cosent)/[\w./]+\w", README):
        assert (ROOT / path).exists(), path
