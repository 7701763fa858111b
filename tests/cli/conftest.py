import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed.run

from cosent.cli.main import main
from tests.conftest import DATA, ROOT
from tests.processes import Done, run_forked, run_ranks

# The scripts that commands were before they were commands.
SHIMS = {
    **{name: f"{name}.py" for name in ("train", "test", "encode", "predict", "search", "calibrate", "compare")},
    "check": "check_data.py",
    "build-backbone": "build_backbone.py",
}


def cosent(*arguments: object, cwd: Path | None = None, stdin: bytes = b"") -> Done:
    """Run a command in this process, to save its imports, as a user would with no terminal behind it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.chdir(cwd or ROOT),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _own_logging(),
    ):
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                err.write(ended.code + "\n")
    output, errors = (stream.buffer.getvalue() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(status, output.decode("utf-8", "replace"), errors.decode("utf-8"), output)


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Messages go where a new process would send them; pytest's handlers, and the levels, are restored."""
    root, ours = logging.getLogger(), logging.getLogger("cosent")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def run_script(name: object, *arguments: object, cwd: Path = ROOT) -> Done:
    """Run one of the scripts in a process of its own, with no terminal behind it."""
    return _process([sys.executable, str(ROOT / "scripts" / str(name)), *map(str, arguments)], cwd=cwd)


def _process(command: list[str], cwd: Path = ROOT, **environment: str) -> Done:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
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
    """Start several processes as a user does."""
    return _process([sys.executable, "-m", *_LAUNCHERS[launcher], *map(str, arguments)], **environment)


def launch_forked(*arguments: object, **environment: str) -> Done:
    """Start several processes by torchrun, which saves them, and itself, their imports."""
    how = ("--standalone", "--start-method=fork", "--run-path")
    return run_forked(Path(torch.distributed.run.__file__), *how, *arguments, **environment)


def ranks(num_ranks: int, command: str, *arguments: object) -> Done:
    """Run a command in several processes, without a launcher that looks after them."""
    return run_ranks(num_ranks, ROOT / "scripts" / SHIMS[command], *arguments)


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


# Stands for a script in `shell`: a line that says which command is called, and how.
_CALL = "import json, sys; print(json.dumps([{command!r}, *sys.argv[1:]]))\n"


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Runs a shell script of the repository; the commands that it calls run in this process, to save their imports."""
    assert bash("scripts/setup.sh").returncode == 0  # in the repository itself, where there is something to install
    root = tmp_path_factory.mktemp("repository")
    names = ("train.sh", "test.sh", "data", ".venv", "models", "pyproject.toml", "constraints.txt")
    (root / "scripts").mkdir()
    for name in (*names, "scripts/setup.sh", "scripts/recipes"):
        (root / name).symlink_to(ROOT / name)
    for command, name in SHIMS.items():
        (root / "scripts" / name).write_text(_CALL.format(command=command))

    def run(script: str, *arguments: object, cwd: Path = root) -> Done:
        called = bash(root / script, *arguments, cwd=cwd)
        status, stdout, stderr = called.returncode, [], [called.stderr]
        for line in called.stdout.splitlines(keepends=True):
            if not line.startswith("["):
                stdout.append(line)
                continue
            done = cosent(*json.loads(line), cwd=cwd)
            stdout.append(done.stdout)
            stderr.append(done.stderr)
            status = status or done.status
        return Done(status, "".join(stdout), "".join(stderr))

    return run


@pytest.fixture
def error_of():
    """Runs a command that must fail, and gives the one message that it ends with."""

    def run(*arguments: object) -> str:
        done = cosent(*arguments)
        assert done.status in (1, 2), done.stdout
        assert "Traceback" not in done.stderr
        _, *messages = done.stderr.split("error: ")
        assert len(messages) == 1, done.stderr
        return messages[0]

    return run


@pytest.fixture(scope="session")
def classic_run(tiny_bert, tmp_path_factory) -> tuple[Done, Path]:
    """The classic command line on the Chinese sample, with the tiny model; and the run's folder."""
    output = tmp_path_factory.mktemp("output")
    done = cosent(
        "train",
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
