import json
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import DATA, ROOT


@dataclass
class Done:
    """How a script ended."""

    status: int
    stdout: str
    stderr: str


def run_script(name: str, *arguments: str, cwd: Path = ROOT) -> Done:
    """Run one of the scripts as a user would, with no terminal behind it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout, done.stderr)


_LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone"],
    "accelerate launch": ["accelerate.commands.launch"],
}


def launch(launcher: str, *arguments: object, **environment: str) -> Done:
    """Start several processes."""
    done = subprocess.run(
        [sys.executable, "-m", *_LAUNCHERS[launcher], *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def torchrun(num_ranks: int, name: str, *arguments: object) -> Done:
    """Run one of the scripts in several processes."""
    return launch("torchrun", f"--nproc_per_node={num_ranks}", ROOT / "scripts" / name, *arguments)


def bash(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a shell script, with no terminal behind it."""
    return subprocess.run(
        ["bash", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Runs a script that must fail, in this process to save its imports, and gives the line that it ends with."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        capsys.readouterr()
        assert isinstance(ended.value.code, str), ended.value.code  # printed to stderr, exit status 1
        return ended.value.code

    return run


@pytest.fixture(scope="session")
def classic_run(tiny_bert, tmp_path_factory) -> tuple[Done, Path]:
    """The classic command line on the Chinese sample, with the tiny model; and the run's folder."""
    output = tmp_path_factory.mktemp("output")
    done = run_script(
        "train.py",
        f"--model_name_or_path={tiny_bert}",
        f"--output_dir={output}",
        f"--train_data_path={DATA / 'zh' / 'train.txt'}",
        f"--eval_data_path={DATA / 'zh' / 'dev.txt'}",
        f"--test_data_path={DATA / 'zh' / 'test.txt'}",
        "--num_train_epochs=3",
        "--save_total_limit=5",
        "--learning_rate=2e-3",
        "--weight_decay=0.01",
        "--warmup_ratio=0.01",
        "--bf16=True",
        "--eval_strategy=epoch",
        "--save_strategy=epoch",
        "--per_device_train_batch_size=64",
        "--report_to=none",
        "--remove_unused_columns=False",
        "--max_length=64",
    )
    assert done.status == 0, done.stderr
    (folder,) = output.iterdir()
    return done, folder


def read_json(path: Path) -> dict:
    """A JSON file's content."""
    return json.loads(path.read_text(encoding="utf-8"))
