"""Callbacks of the trainer."""

import math
from typing import TYPE_CHECKING, Any

import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState

from cosent.data.streams import BatchStream

if TYPE_CHECKING:
    from cosent.training.trainer import CosentTrainer


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):
    """Stops early by the metric for the best model; the metrics of other evaluation data are ignored."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # type: ignore[override]
        """Compare the metric with the best one so far."""
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in kwargs["metrics"]:
            super().on_evaluate(args, state, control, **kwargs)


class SetEpoch(TrainerCallback):
    """Restores the trainer's sums when training begins, and tells the sampler or the stream where it begins.

    With several ranks, the parent does not tell the sampler on resuming.
    """

    def __init__(self, trainer: "CosentTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.go_on()
        if isinstance(self.trainer.train_dataset, BatchStream):
            begins_anew = args.ignore_data_skip
            self.trainer.train_dataset.skip = 0 if begins_anew else state.global_step * args.gradient_accumulation_steps

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer._batches is not None:
            # a resumed run may begin within an epoch
            self.trainer._batches.set_epoch(math.floor((state.epoch or 0) + 1e-9))


def suit_notebook(trainer: "CosentTrainer") -> None:
    """Replace the table that transformers shows in a notebook, if it shows one, by one of cosent's metrics."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "NotebookProgressCallback":
            from cosent.training.notebook import NotebookProgress  # which imports IPython

            trainer.remove_callback(callback)
            trainer.add_callback(NotebookProgress)
