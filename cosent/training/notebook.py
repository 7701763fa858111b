"""Progress of training in a notebook: a bar, and a table with a row for each evaluation."""

from typing import Any

from transformers import TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.notebook import NotebookProgressCallback, NotebookTrainingTracker

from cosent.evaluation.report.plots import is_metric


class NotebookProgress(NotebookProgressCallback):
    """Shows transformers' bar and table, with the columns that cosent's evaluations fill."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin the table."""
        super().on_train_begin(args, state, control, **kwargs)
        self.training_tracker = NotebookTrainingTracker(state.max_steps, [self.first_column, "Loss"])

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # type: ignore[override]
        """Add a row for a logged loss if there are no evaluations."""
        logs = kwargs.get("logs") or {}
        if args.eval_strategy == IntervalStrategy.NO and "loss" in logs and self.training_tracker is not None:
            self.training_tracker.write_line({"Step": state.global_step, "Loss": logs["loss"]})

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # type: ignore[override]
        """Add a row for an evaluation, or the metrics of another set to the row."""
        tracker = self.training_tracker
        if tracker is None:  # outside training, the metrics are the result of the call
            return
        is_epoch = args.eval_strategy == IntervalStrategy.EPOCH
        losses = [log["loss"] for log in state.log_history if "loss" in log]
        row: dict[str, Any] = {self.first_column: f"{state.epoch:g}" if is_epoch else state.global_step}
        row["Loss"] = losses[-1] if losses else ""
        tracker.write_line(row | quality(kwargs.get("metrics") or {}))
        tracker.remove_child()
        self._force_next_update = True


def quality(metrics: dict[str, float]) -> dict[str, float]:
    """Choose the metrics that say how good a model is, by readable names.

    Args:
        metrics: the metrics of an evaluation, such as "eval_dev_spearman".
    """
    names = (name for name in metrics if is_metric(name) and not name.endswith("_threshold"))
    return {name.removeprefix("eval_").replace("_", " ").capitalize(): metrics[name] for name in names}
