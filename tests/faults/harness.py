"""Ends, or fails, a short training run at each of its operations on files; resumed, it must come to the same end.

python -m tests.faults.harness [--sample N] [--seed S]
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.conftest import DATA
from tests.faults.faulty import KILLED
from tests.processes import Done, run_forked

_FAULTY = Path(__file__).with_name("faulty.py")

FAULTS = ("kill", "fail")

# Two checkpoints, the first of which lies between two logs, and goes when the second is there.
_FLAGS = {
    "max_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "logging_steps": 3,
    "save_total_limit": 1,
    "per_device_train_batch_size": 8,
    "max_train_samples": 24,
    "learning_rate": 1e-3,
    "early_stopping_patience": 3,
    "num_resamples": 20,
    "max_length": 16,
    "timestamp_output_dir": False,
}
_TIME_AND_COMMAND = re.compile(r'<td class="name">(time|command)</td>.*?</tr>')
_TIMES = re.compile(r"second|runtime")


class Point(NamedTuple):
    """An operation, by its number and what it is, and how it goes wrong."""

    number: int
    operation: str
    fault: str


_NO_FAULT = Point(0, "", "kill")


class Harness:
    """A run that is repeated with faults.

    Args:
        model: the folder of a tiny encoder.
        folder: an empty folder for all that is written.
    """

    def __init__(self, model: Path, folder: Path):
        self._model, self._folder = model, folder
        self._run = folder / "run"
        self._count = folder / "operations.txt"
        done = self._train()
        assert done.status == 0, done.stderr
        self._expected = self._results()
        self._operations = self._count.read_text(encoding="utf-8").splitlines()

    def points(self) -> list[Point]:
        """All operations of a run that nothing disturbs, with each fault."""
        numbered = enumerate(self._operations, start=1)
        return [Point(number, operation, fault) for number, operation in numbered for fault in FAULTS]

    def trouble(self, point: Point) -> str | None:
        """Let an operation go wrong, resume, and say what is wrong with the end; None where nothing is."""
        shutil.rmtree(self._run, ignore_errors=True)
        done = self._train(point)
        if point.fault == "kill" and done.status != KILLED:
            return f"the process was not ended: status {done.status}\n{done.stderr[-2000:]}"
        if point.fault == "fail" and done.status and (trouble := _trouble_of_message(done)):
            return trouble
        done = self._train(resume=any(self._run.glob("checkpoint-*")))
        if done.status and "finished; nothing left to do" not in done.stderr:
            return f"it cannot be resumed: {done.stderr[-2000:]}"
        found = self._results()
        different = [name for name in self._expected | found if self._expected.get(name) != found.get(name)]
        return f"another end: {', '.join(different)}" if different else None

    def _train(self, point: Point = _NO_FAULT, *, resume: bool = False) -> Done:
        data = DATA / "zh"
        flags = {
            **_FLAGS,
            "model_name_or_path": self._model,
            "output_dir": self._run,
            "train_data_path": data / "train.txt",
            "eval_data_path": data / "dev.txt",
            "test_data_path": data / "test.txt",
            **({"resume_from_checkpoint": "last"} if resume else {}),
        }
        command = [f"--{name}={value}" for name, value in flags.items()]
        return run_forked(_FAULTY, self._run, point.number, point.fault, self._count, "train", *command)

    def _results(self) -> dict[str, object]:
        """What a run leaves behind, without the time that it took."""
        files = [self._run / name for name in ("model.safetensors", "cosent_config.json")]
        found: dict[str, object] = {path.name: path.read_bytes() for path in files if path.is_file()}
        page = self._run / "training.html"
        if page.is_file():
            found[page.name] = _TIME_AND_COMMAND.sub("", page.read_text(encoding="utf-8"))
        for path in self._run.glob("*_results.json"):
            results = json.loads(path.read_text(encoding="utf-8"))
            found[path.name] = {name: value for name, value in results.items() if not _TIMES.search(name)}
        return found


def _trouble_of_message(done: Done) -> str | None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if "Traceback" in done.stderr or len(lines) != 1:
        return f"no message of one line: {done.stderr[-2000:]}"
    return None if "disk" in lines[0] and "full" in lines[0] else f"it does not say that the disk is full: {lines[0]}"


def sample(points: list[Point], number: int, seed: int) -> list[Point]:
    """Some of the points, in order."""
    return sorted(random.Random(seed).sample(points, min(number, len(points))))


def main() -> None:
    """Try all points, or some, and print how many were bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="points to try; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cosent-faults-") as folder:
        model = Path(folder) / "tiny-bert"
        _build(model, Path(folder))
        harness = Harness(model, Path(folder))
        points = harness.points()
        if given.sample is not None:
            points = sample(points, given.sample, given.seed)
        bad = 0
        for point in points:
            if trouble := harness.trouble(point):
                bad += 1
                sys.stdout.write(f"{point.number} {point.fault} at {point.operation}: {trouble}\n")
                sys.stdout.flush()
        sys.stdout.write(f"{len(points)} tried, {bad} bad\n")


def _build(model: Path, folder: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes |= {"vocab_size": 1000, "max_position_embeddings": 64}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    corpus = f"--corpus={DATA / 'zh' / 'train.txt'}"
    command = ["build-backbone", corpus, f"--output_dir={model}", *flags]
    done = run_forked(_FAULTY, folder / "none", 0, "kill", folder / "operations.txt", *command)
    assert done.status == 0, done.stderr


if __name__ == "__main__":
    main()
