"""The folder of a training run: where it is, what it goes on from, and by which command and launcher it was begun."""

import json
import os
import time
from pathlib import Path
from typing import Any

from cosent.distributed import num_ranks
from cosent.errors import UserError
from cosent.losses import Loss
from cosent.model.checkpoint import read_settings
from cosent.training.arguments import CosentTrainingArguments
from cosent.training.trainer import describe_loss

_LAUNCH_FILE = "launch.txt"  # lies in a run's folder until it is finished


def begin_folder(folder: Path, command: str) -> None:
    """Make a run's folder, and note by which command and launcher; a run that is resumed wants the same flags."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks = f"  # on {num_ranks()} processes" if num_ranks() > 1 else ""
    (folder / "command.txt").write_text(f"{command}{ranks}\n", encoding="utf-8")
    _note_launch(folder / _LAUNCH_FILE, command)


def end_folder(folder: Path) -> None:
    """Note that a run is finished: no launcher goes on from it."""
    (folder / _LAUNCH_FILE).unlink(missing_ok=True)


def _launch(command: str) -> str:
    """What tells a launcher's run from others: its name, which may be the user's, and the command."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', 'none')}\n{command}\n"


def _is_restarted() -> bool:
    """Whether a launcher has started this again, after some rank had ended."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _note_launch(path: Path, command: str) -> None:
    """Write down which launcher began this run, and thereby when; not when it only starts it again."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not (_is_restarted() and path.exists()):
        path.write_text(_launch(command), encoding="utf-8")


def run_folder(args: CosentTrainingArguments, model_name: str, command: str) -> tuple[str, str | None]:
    """Where this run goes, and the checkpoint that it goes on from: a resumed run stays in its folder."""
    resume = args.resume_from_checkpoint
    if _is_restarted() and (begun := _begun_run(args, command)):
        newest = _last_checkpoint(begun, since=begun / _LAUNCH_FILE)
        if newest or not resume:
            return str(begun), newest
    if resume and resume.lower() in ("true", "last"):
        resume = _last_checkpoint(Path(args.output_dir))
        if resume is None:
            raise UserError(f"there is no checkpoint under {args.output_dir} to resume from")
    if resume:
        _check_unfinished(Path(resume), args)
        return str(Path(resume).parent), resume
    if args.timestamp_output_dir:
        return str(Path(args.output_dir) / f"{Path(model_name).absolute().name}-{time.strftime('%Y%m%d-%H%M%S')}"), None
    return args.output_dir, None


def _last_checkpoint(folder: Path, since: Path | None = None) -> str | None:
    """The latest checkpoint in a folder or below; with `since`, of those after that file, and not a run's end."""
    # the state is written last: a checkpoint without one was interrupted
    states = sorted(folder.glob("**/checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if since is not None:
        begun = since.stat().st_mtime
        states = [path for path in states if path.stat().st_mtime >= begun and not _is_end(_read_state(path))]
    return str(states[-1].parent) if states else None


def _read_state(path: Path) -> dict[str, Any]:
    """What the Trainer notes of a checkpoint."""
    return json.loads(path.read_text(encoding="utf-8"))


def _is_end(state: dict[str, Any]) -> bool:
    """Whether a checkpoint is the last of its run: the Trainer would take a step more."""
    return state["global_step"] >= state["max_steps"]


def _begun_run(args: CosentTrainingArguments, command: str) -> Path | None:
    """The folder of the run that this launcher began and now starts again, if it came so far."""
    folders = Path(args.output_dir).glob("*") if args.timestamp_output_dir else [Path(args.output_dir)]
    launches = [path for folder in folders if (path := folder / _LAUNCH_FILE).is_file()]
    for path in sorted(launches, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.read_text(encoding="utf-8") == _launch(command):
            return path.parent
    return None


def _check_unfinished(checkpoint: Path, args: CosentTrainingArguments) -> None:
    """Refuse what is no checkpoint, and one that has nothing left to train: the Trainer would take a step more."""
    path = checkpoint / "trainer_state.json"
    if not path.is_file() or not checkpoint.name.startswith("checkpoint-"):
        hint = ", ".join(str(found) for found in sorted(checkpoint.glob("checkpoint-*"))) or "none below it either"
        raise UserError(f"{checkpoint} is no checkpoint to resume from ({hint})")
    state = _read_state(path)
    longer = args.num_train_epochs > state["num_train_epochs"] if args.max_steps <= 0 else False
    ranks = len(list(checkpoint.glob("rng_state*.pth")))
    if ranks != args.world_size:
        raise UserError(
            f"{checkpoint} was trained by {ranks} processes, not by {args.world_size}: a run goes on as it began, "
            f"see {checkpoint.parent}/command.txt"
        )
    if state["global_step"] >= (args.max_steps if args.max_steps > 0 else state["max_steps"]) and not longer:
        raise UserError(f"{checkpoint} is the end of its run: there is nothing left to train")


def check_same_loss(checkpoint: str, loss: Loss) -> None:
    """Refuse to go on with another loss than the run began with: its model would be lost."""
    stored = read_settings(checkpoint).loss
    if stored != describe_loss(loss):
        raise UserError(
            f"{checkpoint} was trained with {stored}, not with {describe_loss(loss)}: a run goes on with the flags "
            f"that it began with, see {Path(checkpoint).parent}/command.txt"
        )
