"""The Trainer's checkpoints: which are complete, which is the latest, and whether one is the end of its run.

Training resumes from a complete checkpoint as if it had never been interrupted. Nothing here unpickles anything.
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from cosent.errors import UserError
from cosent.files import checksum, flush, flush_folder, write_json

logger = logging.getLogger(__name__)

# The folder, within the run's, where a checkpoint is written until it is complete.
UNFINISHED = ".unfinished"

_STATE = "trainer_state.json"
_REQUIRED = (_STATE, "config.json", "modules.json", "cosent_config.json", "tokenizer_config.json")
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.vocab")
# DeepSpeed keeps the optimizer and the scheduler in a folder that `latest` names.
_DEEPSPEED = "latest"
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0", _DEEPSPEED)
_INDEX = "model.safetensors.index.json"
# The checksum of every file of a checkpoint, by its path, except those that may change: `cosent calibrate` rewrites the
# first, and people the second.
_CHECKSUMS = "checksums.json"
_MAY_CHANGE = ("cosent_config.json", "README.md")


def checkpoint_of(folder: str | Path, step: int) -> Path:
    """Return the path of the checkpoint of a step.

    Args:
        folder: the run's folder.
        step: the number of updates.
    """
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoints_below(folder: str | Path) -> list[Path]:
    """Find the checkpoints in a folder and below, complete or not, the latest first.

    Args:
        folder: a run's folder, or one that holds several.
    """
    found = Path(folder).glob(f"**/{PREFIX_CHECKPOINT_DIR}-*/")
    checkpoints = [path for path in found if UNFINISHED not in path.parts and path.is_dir()]
    # copies have times of their own: within a run the step decides, and its latest time among several runs
    times: dict[Path, int] = {}
    for path in checkpoints:
        times[path.parent] = max(times.get(path.parent, 0), _age(path)[0])
    return sorted(checkpoints, key=lambda path: (times[path.parent], str(path.parent), _age(path)[1]), reverse=True)


def last_whole(folder: str | Path, *, num_ranks: int = 1, needs_best: bool = True, since: float = 0) -> Path | None:
    """Find the latest checkpoint that training can resume from, and log why later ones are skipped.

    Args:
        folder: a run's folder, or one that holds several.
        num_ranks: number of ranks of the resumed run.
        needs_best: whether it needs the best checkpoint so far.
        since: the earliest time of a checkpoint, in seconds.
    """
    for checkpoint in checkpoints_below(folder):
        if _age(checkpoint)[0] < since * 1e9:
            break
        flaw = flaw_of(checkpoint, num_ranks=num_ranks, needs_best=needs_best)
        if flaw is None:
            return checkpoint
        logger.warning("%s is not whole, so training does not go on from it: %s", checkpoint, flaw)
    return None


def flaw_of(checkpoint: Path, *, num_ranks: int = 1, needs_best: bool = True) -> str | None:
    """Say why training cannot resume exactly from a checkpoint; None if it can.

    Args:
        checkpoint: the folder.
        num_ranks: number of ranks of the resumed run.
        needs_best: whether it needs the best checkpoint so far.
    """
    try:
        return next(_flaws(checkpoint, num_ranks, needs_best), None)
    except OSError as error:
        return f"{error.filename or checkpoint} cannot be read: {error.strerror}"


def refuse_flawed(checkpoint: Path, *, num_ranks: int = 1, needs_best: bool = True) -> None:
    """Refuse to resume from an incomplete checkpoint.

    Args:
        checkpoint: the folder.
        num_ranks: number of ranks of the resumed run.
        needs_best: whether it needs the best checkpoint so far.

    Raises:
        UserError: if the checkpoint is incomplete; the message says why.
    """
    flaw = flaw_of(checkpoint, num_ranks=num_ranks, needs_best=needs_best)
    if flaw is not None:
        raise UserError(
            f"training cannot go on from {checkpoint}: {flaw}. Give an older checkpoint, or "
            "resume_from_checkpoint='last', which takes the latest that is whole"
        )


def read_state(folder: str | Path) -> TrainerState:
    """Read the Trainer's state from a checkpoint or from a finished run.

    Args:
        folder: the checkpoint's or the run's folder.

    Raises:
        ValueError: if the file is damaged, or does not hold such a state.
    """
    try:
        state = TrainerState.load_from_json(str(Path(folder) / _STATE))
    except TypeError as error:
        raise ValueError(f"is of no known form: {error}") from error
    numbers = (state.global_step, state.max_steps, state.num_train_epochs, state.best_global_step or 0)
    if not all(isinstance(number, int | float) for number in numbers) or not isinstance(state.stateful_callbacks, dict):
        raise ValueError("is of no known form")
    return state


def write_state(folder: Path, state: TrainerState) -> None:
    """Write the Trainer's state as it does, but keep the order of names, in which pages show metrics.

    Args:
        folder: the checkpoint's folder.
        state: the state.
    """
    (folder / _STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def stopped_early(state: TrainerState, patience: int | None) -> bool:
    """Tell whether early stopping had ended the run at a checkpoint, and would end it again.

    Args:
        state: the checkpoint's state.
        patience: evaluations without improvement after which training now stops. None: no early stopping.
    """
    control, stopping = (stored_states(state, name) for name in ("TrainerControl", "EarlyStoppingCallback"))
    asked = any(one.get("args", {}).get("should_training_stop") for one in control)
    counts = [one.get("attributes", {}).get("early_stopping_patience_counter", 0) for one in stopping]
    return asked and patience is not None and state.global_step < state.max_steps and max(counts, default=0) >= patience


def stored_states(state: TrainerState, name: str) -> list[dict[str, Any]]:
    """List the states of all callbacks of a class in a checkpoint.

    Args:
        state: the checkpoint's state.
        name: name of the class.
    """
    states: Any = state.stateful_callbacks
    stored = states.get(name, [])
    return list(stored) if isinstance(stored, list) else [stored]


def best_of(folder: str | Path, state: TrainerState) -> Path | None:
    """Find the best checkpoint so far, in the run's folder, which may have been moved, or at its stored path.

    Args:
        folder: the run's folder.
        state: the state of a checkpoint.
    """
    if state.best_model_checkpoint is None:
        return None
    own = Path(folder) / Path(state.best_model_checkpoint).name
    return own if own.is_dir() else Path(state.best_model_checkpoint)


def publish(unfinished: Path, checkpoint: Path) -> None:
    """Note the checksums of a complete checkpoint and move it to its final path, replacing an existing one.

    All of it is on the disk before it gets its name, so that a power failure leaves no checkpoint with half a file.

    Args:
        unfinished: where it was written, in its own folder.
        checkpoint: the final path.
    """
    write_json(unfinished / _CHECKSUMS, _checksums(unfinished))
    flush_folder(unfinished)
    if checkpoint.exists():
        os.replace(checkpoint, unfinished.with_name(f"{checkpoint.name}.replaced"))
    os.replace(unfinished, checkpoint)
    flush(checkpoint.parent)
    shutil.rmtree(unfinished.parent, ignore_errors=True)


def _checksums(checkpoint: Path) -> dict[str, str]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file())
    names = {path.relative_to(checkpoint).as_posix(): path for path in files}
    return {name: checksum(path) for name, path in names.items() if name not in (_CHECKSUMS, *_MAY_CHANGE)}


def _age(checkpoint: Path) -> tuple[int, int]:
    """Return when a checkpoint was written, by its state, which is written last, and at which step."""
    state = checkpoint / _STATE
    number = checkpoint.name.rpartition("-")[2]
    time = (state if state.is_file() else checkpoint).stat().st_mtime_ns
    return time, int(number) if number.isdecimal() else -1


def _flaws(checkpoint: Path, num_ranks: int, needs_best: bool) -> Iterator[str]:
    names = {path.name for path in checkpoint.iterdir()}
    yield from (f"{name} is missing" for name in _REQUIRED if name not in names)
    if not any(next(checkpoint.glob(pattern), None) for pattern in _VOCABULARIES):
        yield "tokenizer.json is missing"
    yield from _flaws_of_weights(checkpoint)
    if not names.intersection(_OPTIMIZERS):
        yield "optimizer.pt is missing; a checkpoint of save_only_model=True has none"
    if not names.intersection(("scheduler.pt", _DEEPSPEED)):
        yield "scheduler.pt is missing"
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and (damage := _damage(path)):
            yield f"{path.relative_to(checkpoint)} {damage}"
    yield from _flaws_of_files(checkpoint)
    ranks = {path.name for path in checkpoint.glob("rng_state*.pth")}
    wanted = {f"rng_state_{rank}.pth" for rank in range(num_ranks)} if num_ranks > 1 else {"rng_state.pth"}
    if not ranks:
        yield f"{min(wanted)} is missing"
    if ranks != wanted:
        yield f"it was trained by {len(ranks)} processes, not by {num_ranks}: {_missing(wanted - ranks)}"
    yield from _flaws_of_state(checkpoint, needs_best)


def _missing(names: set[str]) -> str:
    return f"{', '.join(sorted(names))} is missing" if names else "a run goes on as it began"


def _flaws_of_state(checkpoint: Path, needs_best: bool) -> Iterator[str]:
    try:
        state = read_state(checkpoint)
        stopped_early(state, None)
    except (AttributeError, TypeError, ValueError) as error:
        yield f"{_STATE} {error}"
        return
    best = best_of(checkpoint.parent, state) if needs_best else None
    if best is not None and best.name != checkpoint.name:
        flaws = chain(_flaws_of_weights(best), _flaws_of_files(best)) if best.is_dir() else iter(["it is missing"])
        yield from (f"of {best}, the best checkpoint so far: {flaw}" for flaw in flaws)


def _flaws_of_weights(checkpoint: Path) -> Iterator[str]:
    names = ["model.safetensors"]
    if (checkpoint / _INDEX).is_file() and not _damage(checkpoint / _INDEX):
        names = sorted(set(json.loads((checkpoint / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        damage = _damage(checkpoint / name) if (checkpoint / name).is_file() else "is missing"
        if damage:
            yield f"{name} {damage}"


def _flaws_of_files(checkpoint: Path) -> Iterator[str]:
    """Compare the files of a checkpoint with their checksums; earlier versions stored none."""
    if not (checkpoint / _CHECKSUMS).is_file():
        return
    try:
        checksums = dict(json.loads((checkpoint / _CHECKSUMS).read_text(encoding="utf-8")).items())
    except (AttributeError, ValueError) as error:
        yield f"{_CHECKSUMS} is damaged: {error}"
        return
    for name, stored in checksums.items():
        if not (checkpoint / name).is_file():
            yield f"{name} is missing"
        elif checksum(checkpoint / name) != stored:
            yield f"{name} is damaged, or another checkpoint's: its checksum is not the one in {_CHECKSUMS}"


def _damage(path: Path) -> str | None:
    """Say whether a file is truncated or does not match its type."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, "numpy"):  # reads the header, and compares it with the size
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("a checksum is wrong")
    except (ValueError, SafetensorError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return f"is damaged, perhaps cut short: {error}"
    return None
