"""The folder of a training run: its path, its checkpoints, and the command and launcher that started it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from cosent.distributed import num_ranks
from cosent.errors import UserError
from cosent.evaluation.report import Report
from cosent.files import locked, writing
from cosent.losses import Loss
from cosent.model.checkpoint import read_settings
from cosent.training.arguments import CosentTrainingArguments
from cosent.training.checkpoints import (
    UNFINISHED,
    checkpoints_below,
    last_whole,
    read_state,
    refuse_flawed,
    stopped_early,
)
from cosent.training.trainer import describe_loss

_LAUNCH_FILE = "launch.txt"  # exists in a run's folder until the run is finished
_COMMAND_FILE = "command.txt"
_COMMAND = "cosent train"  # how the command begins
_LOCK_FILE = ".lock"
_PAGE = "training"

# The files by which a folder is loaded as a model, or that are its weights.
_MODEL = ("modules.json", "cosent_config.json", "config.json", "model.safetensors")

# What else a run writes or removes.
_WRITTEN = (
    *("README.md", "tokenizer*.json", "vocab*", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("[12]_*", "*_results.json", "trainer_state.json", f"{_PAGE}.html", f"{_PAGE}-*.png", "command.txt", "launch.txt"),
)

# The files of a finished run. The page is written last, so a run without it is not finished.
_END = ("config.json", "cosent_config.json", "train_results.json", "trainer_state.json", f"{_PAGE}.html")


def begin_folder(folder: Path, command: str, *, resumes: bool) -> None:
    """Record in a run's folder the command and the launcher that started it, so that it can be resumed.

    Args:
        folder: the run's folder.
        command: the command that starts this run again.
        resumes: whether the run resumes from a checkpoint there; otherwise, an earlier run's files are removed.
    """
    with writing(folder):
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        (folder / f"{_PAGE}.html").unlink(missing_ok=True)
        if not resumes:
            for checkpoint in _checkpoints_in(folder):
                shutil.rmtree(checkpoint)
            for results in folder.glob("*_results.json"):
                results.unlink()
            for name in _MODEL:
                (folder / name).unlink(missing_ok=True)  # else the earlier model would pass for this run's
        ranks = f"  # on {num_ranks()} processes" if num_ranks() > 1 else ""
        (folder / _COMMAND_FILE).write_text(f"{command}{ranks}\n", encoding="utf-8")
        _note_launch(folder / _LAUNCH_FILE, command)


def end_folder(folder: Path, page: Report) -> None:
    """Write the page, the last file of a run; from then on, the run is finished and no launcher resumes it.

    Args:
        folder: the run's folder.
        page: the report of its training.
    """
    apart = folder / UNFINISHED
    with writing(folder):
        apart.mkdir(exist_ok=True)
        written = page.write(apart, _PAGE)
        for picture in apart.glob("*.png"):
            picture.replace(folder / picture.name)
        written.replace(folder / written.name)
        shutil.rmtree(apart, ignore_errors=True)
    (folder / _LAUNCH_FILE).unlink(missing_ok=True)


@contextmanager
def held_folder(folder: Path, *, is_new: bool) -> Iterator[None]:
    """Lock a run's folder, and remove the folder if the run ends before it has written anything.

    Args:
        folder: the run's folder, created if it does not exist.
        is_new: whether it was created for this run.
    """
    busy = f"another run is writing to {folder} at this moment: wait for its end, or give another output_dir"
    with writing(folder):
        is_new = is_new or not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / _LOCK_FILE, busy):
            yield
    except BaseException:
        if is_new and not (folder / _COMMAND_FILE).exists():
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def _launch(command: str) -> str:
    """Identify a launcher's run by its id, which the user may have chosen, and the command."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', 'none')}\n{command}\n"


def _is_restarted() -> bool:
    """Tell whether a launcher has restarted this process after a rank had ended."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _note_launch(path: Path, command: str) -> None:
    """Record the launcher that started this run, and thereby the time, unless it is a restart."""
    if "TORCHELASTIC_RUN_ID" in os.environ and not (_is_restarted() and path.exists()):
        path.write_text(_launch(command), encoding="utf-8")


def run_folder(args: CosentTrainingArguments, model_name: str, command: str) -> tuple[str, str | None]:
    """Find or create the folder of this run, and find the checkpoint to resume from; a resumed run keeps its folder.

    Args:
        args: the training arguments.
        model_name: folder or hub id of the model to fine-tune.
        command: the command that starts this run again.

    Returns:
        The folder, and the checkpoint, if any.

    Raises:
        UserError: if the checkpoint cannot be resumed, the run is finished, or files in the folder would be lost.
    """
    resume = args.resume_from_checkpoint
    begun = _begun_run(args, command) if _is_restarted() else None
    if begun is not None:
        newest = _last_checkpoint(begun, args, since=(begun / _LAUNCH_FILE).stat().st_mtime)
        if newest or not resume:
            return str(begun), None if newest is None else str(newest)
    if resume:
        checkpoint = _resumed(resume, args)
        _check_apart(checkpoint.parent, model_name)
        return str(checkpoint.parent), str(checkpoint)
    folder = Path(args.output_dir)
    if args.timestamp_output_dir:
        if _is_within(folder, Path(model_name)):
            raise UserError(_overwritten(folder, model_name))
        return str(_claim(folder, Path(model_name).absolute().name)), None
    _check_apart(folder, model_name)
    _check_unused(folder, args)
    return args.output_dir, None


def _claim(folder: Path, model_name: str) -> Path:
    """Create a folder of this run's own, even if several runs start in the same second."""
    name = f"{model_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            claimed = folder / (name if number == 1 else f"{name}-{number}")
            try:
                claimed.mkdir()
            except FileExistsError:
                continue
            return claimed
    raise AssertionError("there are always more numbers")


def _check_apart(folder: Path, model_name: str) -> None:
    """Refuse a run's folder that is the model's folder, contains it or lies within it."""
    model = Path(model_name)
    if model.is_dir() and (_is_within(folder, model) or _is_within(model, folder)):
        raise UserError(_overwritten(folder, model_name))


def _overwritten(folder: Path, model_name: str) -> str:
    return (
        f"output_dir={str(folder)!r} would overwrite the model that is fine-tuned, model_name_or_path={model_name!r}: "
        "give an output_dir apart from it"
    )


def _is_within(path: Path, folder: Path) -> bool:
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())


def _check_unused(folder: Path, args: CosentTrainingArguments) -> None:
    """Refuse a folder that holds a model, of a finished run or of other origin, or checkpoints."""
    if args.overwrite_output_dir or not folder.is_dir():
        return
    checkpoints = [path.name for path in _checkpoints_in(folder)]
    if checkpoints or any((folder / name).exists() for name in _MODEL):
        model = "a finished run" if _is_finished(folder) else "a model"
        held = f"checkpoints of a run ({', '.join(checkpoints)})" if checkpoints else model
        raise UserError(
            f"output_dir={str(folder)!r} holds {held}, which this run would overwrite: go on from it with "
            "resume_from_checkpoint='last', give another output_dir, or overwrite it with overwrite_output_dir=True"
        )
    foreign = sorted({path.name for pattern in _WRITTEN for path in folder.glob(pattern)})
    if foreign and not _is_of_a_run(folder):
        raise UserError(
            f"output_dir={str(folder)!r} holds files that are no run's and that this run would overwrite "
            f"({', '.join(foreign)}): give another output_dir, or overwrite them with overwrite_output_dir=True"
        )


def _is_of_a_run(folder: Path) -> bool:
    """Tell whether a run has begun in a folder."""
    try:
        return (folder / _COMMAND_FILE).read_text(encoding="utf-8").startswith(_COMMAND)
    except (OSError, UnicodeDecodeError):
        return False


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("checkpoint-*") if path.is_dir() and not path.is_symlink())


def _is_finished(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in _END):
        return False
    try:
        logs = read_state(folder).log_history
    except ValueError:  # it is damaged
        return False
    was_evaluated = any(name.startswith("eval_") for log in logs for name in log)
    return any(folder.glob("eval*_results.json")) or not was_evaluated


def _last_checkpoint(folder: Path, args: CosentTrainingArguments, since: float = 0) -> Path | None:
    return last_whole(folder, num_ranks=args.world_size, needs_best=args.load_best_model_at_end, since=since)


def _begun_run(args: CosentTrainingArguments, command: str) -> Path | None:
    """Find the folder of the run that this launcher started before the restart, if it got that far."""
    folders = Path(args.output_dir).glob("*") if args.timestamp_output_dir else [Path(args.output_dir)]
    launches = [path for folder in folders if (path := folder / _LAUNCH_FILE).is_file()]
    for path in sorted(launches, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.read_text(encoding="utf-8") == _launch(command):
            return path.parent
    return None


def _resumed(resume: str, args: CosentTrainingArguments) -> Path:
    """Find the checkpoint to resume from, and check that it is complete and not the end of its run."""
    if resume.lower() in ("true", "last"):
        found = _last_checkpoint(Path(args.output_dir), args)
        if found is None:
            raise UserError(_nothing_to_resume(Path(args.output_dir)))
        newest, *_ = checkpoints_below(found.parent)
        # if the newest is damaged, an older one is not the end of the run
        _refuse_finished(found.parent, found.parent if newest == found else found, args)
        return found
    checkpoint = Path(resume)
    if not checkpoint.is_dir() or not checkpoint.name.startswith("checkpoint-"):
        hint = ", ".join(str(found) for found in sorted(checkpoint.glob("checkpoint-*"))) or "none below it either"
        raise UserError(f"{checkpoint} is no checkpoint to resume from ({hint})")
    refuse_flawed(checkpoint, num_ranks=args.world_size, needs_best=args.load_best_model_at_end)
    _refuse_finished(checkpoint.parent, checkpoint, args)
    return checkpoint


def _nothing_to_resume(folder: Path) -> str:
    damaged = checkpoints_below(folder)
    if damaged:
        return f"there is no whole checkpoint under {folder} to resume from; the reasons are above"
    return f"there is no checkpoint under {folder} to resume from: start without resume_from_checkpoint"


def _refuse_finished(folder: Path, state_folder: Path, args: CosentTrainingArguments) -> None:
    """Refuse to resume a finished run, unless more steps are requested.

    Args:
        folder: the run's folder.
        state_folder: the checkpoint's folder, or the run's own for its end.
        args: the training arguments, which say how long to train.
    """
    if not _is_finished(folder):
        return
    state = read_state(state_folder)
    reached = state.global_step >= (args.max_steps if args.max_steps > 0 else state.max_steps)
    longer = args.max_steps <= 0 and args.num_train_epochs > state.num_train_epochs
    if reached and not longer or stopped_early(state, args.early_stopping_patience):
        raise UserError(
            f"the run in {folder} is finished; nothing left to do. To train for longer, raise num_train_epochs or "
            "max_steps; to train anew, leave out resume_from_checkpoint"
        )


def check_same_loss(checkpoint: str, loss: Loss) -> None:
    """Refuse to resume with another loss than the run began with, which would overwrite its model."""
    stored = read_settings(checkpoint).loss
    if stored != describe_loss(loss):
        raise UserError(
            f"{checkpoint} was trained with {stored}, not with {describe_loss(loss)}: a run goes on with the flags "
            f"that it began with, see {Path(checkpoint).parent}/command.txt"
        )
