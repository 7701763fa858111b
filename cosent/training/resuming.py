"""A Trainer whose runs can be interrupted anywhere and reach the same result when resumed."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import rotate_checkpoints

from cosent.distributed import on_first_rank
from cosent.errors import UserError
from cosent.files import writing
from cosent.training.checkpoints import (
    UNFINISHED,
    best_of,
    checkpoint_of,
    last_whole,
    publish,
    read_state,
    refuse_flawed,
    stopped_early,
    stored_states,
    write_state,
)

_PROGRESS = "CosentTrainer"  # the key of our sums in a checkpoint, beside the callbacks' states


class ResumableTrainer(Trainer):
    """transformers' Trainer, with checkpoints that hold everything that a run needs to resume.

    A checkpoint is written to a temporary folder and gets its name when it is complete. In addition to the parent's
    content, it keeps the sums since the last log, so that logs and the mean loss are those of an uninterrupted run.
    Callbacks, including early stopping, continue where they were. A run that was ended after its last step takes no
    further step when it is resumed.
    """

    _statistics: dict[str, Tensor]  # sums since the last log
    _statistics_steps: int

    _writes_apart = False
    _has_stopped = False
    _progress: dict[str, Any] = {}
    _begun_at = 0.0  # start time, minus the time that a resumed run had taken before

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train like the parent, but refuse an incomplete checkpoint, or skip it if the last one is requested.

        Args:
            resume_from_checkpoint: a checkpoint, or True for the last complete one in `output_dir`.
            trial: the parent's argument.
            ignore_keys_for_eval: the parent's argument.

        Raises:
            UserError: if there is no such checkpoint, or it is incomplete.
        """
        needs: dict[str, Any] = {"num_ranks": self.args.world_size, "needs_best": self.args.load_best_model_at_end}
        if resume_from_checkpoint is True:
            folder = str(self.args.output_dir)
            last = on_first_rank(lambda: last_whole(folder, **needs))
            if last is None:
                raise UserError(f"there is no whole checkpoint under {folder} to resume from")
            resume_from_checkpoint = str(last)
        elif resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
            on_first_rank(lambda: refuse_flawed(checkpoint, **needs))  # it reads all of it
        self._has_stopped, self._progress = False, {}
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def go_on(self) -> None:
        """Restore the sums of the checkpoint, if there is one; called when training begins."""
        kept, self._progress = self._progress, {}
        self._begun_at = time.time() - kept.get("seconds", 0.0)
        if not kept:
            return
        self._tr_loss = torch.tensor(kept["loss"], device=self.args.device)
        self._total_loss_scalar = kept["total_loss"]
        self._globalstep_last_logged = kept["last_logged"]
        self._initial_global_step = kept["first_step"]
        self._statistics = {name: torch.tensor(value) for name, value in kept["statistics"].items()}
        self._statistics_steps = kept["statistics_steps"]

    def _keep_progress(self) -> None:
        callbacks: Any = self.state.stateful_callbacks
        callbacks[_PROGRESS] = {
            "args": {},
            "attributes": {
                "loss": nested_gather(self._tr_loss, self.args.parallel_mode).mean().item(),
                "total_loss": self._total_loss_scalar,
                "last_logged": self._globalstep_last_logged,
                "first_step": self._initial_global_step,
                "statistics": {name: total.item() for name, total in self._statistics.items()},
                "statistics_steps": self._statistics_steps,
                "seconds": time.time() - self._begun_at,
            },
        }

    def _load_callback_state(self) -> None:
        # the parent would rebuild callbacks from the stored arguments, which would undo changed flags
        callbacks = [one for one in self.callback_handler.callbacks if isinstance(one, ExportableState)]
        for name in {type(one).__name__ for one in callbacks}:
            same = (one for one in callbacks if type(one).__name__ == name)
            for callback, stored in zip(same, stored_states(self.state, name), strict=False):
                vars(callback).update(stored.get("attributes", {}))
        patience = [one.early_stopping_patience for one in callbacks if isinstance(one, EarlyStoppingCallback)]
        self._has_stopped = stopped_early(self.state, min(patience, default=None))
        self._progress = next(iter(stored_states(self.state, _PROGRESS)), {}).get("attributes", {})
        # the parent would drop callbacks that did not exist when the run began
        known: Any = [*callbacks, self.control]
        self.state.stateful_callbacks = TrainerState(stateful_callbacks=known).stateful_callbacks

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, resume: str | None, trial: Any
    ) -> tuple[int, int]:
        place = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, resume, trial)
        if resume is not None and self.state.best_global_step:
            # the parent looks in the folder in which the run began
            best = best_of(Path(resume).parent, read_state(resume))
            self.state.best_model_checkpoint = None if best is None else str(best)
        return place

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _loading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._has_stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # the parent would take another step
            return
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, self._begun_at)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._writes_apart else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._keep_progress()
        if self.args.push_to_hub:  # which uploads the folder during training
            super()._save_checkpoint(model, trial)
            return
        folder = Path(self._get_output_dir(trial))
        checkpoint = checkpoint_of(folder, self.state.global_step)
        unfinished = folder / UNFINISHED / checkpoint.name
        with self._writing_apart(unfinished.parent):
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(unfinished):
                self.state.best_model_checkpoint = str(checkpoint)
            self.accelerator.wait_for_everyone()  # until all ranks have looked for the best checkpoint
            if self.args.should_save:
                write_state(unfinished, self.state)
                publish(unfinished, checkpoint)
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), self.args.save_total_limit, best, use_mtime=True)
        self.accelerator.wait_for_everyone()  # all ranks may now look for it under its name

    @contextmanager
    def _writing_apart(self, folder: Path) -> Iterator[None]:
        """Let the parent write a checkpoint to a folder, which is removed if that fails."""
        self._writes_apart = True
        try:
            with writing(folder.parent):
                yield
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self._writes_apart = False

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # each rank writes its own file; the trainer state, written next, marks the checkpoint as complete
        self.accelerator.wait_for_everyone()


@contextmanager
def _loading(checkpoint: str | None) -> Iterator[None]:
    """Let what does not fit this run, or would run code when it is unpickled, be an error that the user can fix."""
    try:
        yield
    except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the states of the optimizer and the generators in {checkpoint} cannot be loaded: {reason}; give the "
            "flags that the run began with, or an older checkpoint"
        ) from error
