"""transformers' Trainer, wired to a SentenceBert, a pure loss and our evaluation.

Shapes: K texts an example, B examples, N = K*B texts, D dimensions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from cosent.data.collator import TokenBatchCollator
from cosent.data.datasets import PairDataset
from cosent.errors import UserError
from cosent.evaluation.evaluators import evaluate_pairs, pair_metric_names
from cosent.losses import Loss
from cosent.modeling import SentenceBert
from cosent.training.arguments import CosentTrainingArguments


class CosentTrainer(Trainer):
    """Fine-tunes a SentenceBert.

    Evaluation draws no random numbers and restores the model's mode, so it changes nothing about training.
    Checkpoints are complete folders that `SentenceBert` and sentence-transformers load.

    Args:
        model: the encoder.
        args: see `CosentTrainingArguments`.
        loss: a function of embeddings (K, B, D), labels (B,) and text ids (N,).
        train_dataset: pairs to train on.
        eval_dataset: pairs that choose the best checkpoint.
        positive_label_min: labels from here on are a match; see `evaluate_pairs`.
        callbacks: more callbacks.

    Raises:
        UserError: from `train`, if `metric_for_best_model` is none of the metrics.
    """

    # The loss is one value for its batch: under accumulation the parent divides by the number of batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: SentenceBert,
        args: CosentTrainingArguments,
        loss: Loss,
        *,
        train_dataset: PairDataset | None = None,
        eval_dataset: PairDataset | None = None,
        positive_label_min: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        callbacks = list(callbacks or ())
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model=model,
            args=args,
            data_collator=TokenBatchCollator(),
            train_dataset=train_dataset.tokens.with_format("numpy") if train_dataset else None,
            eval_dataset=eval_dataset.tokens if eval_dataset else None,
            callbacks=callbacks,
        )
        self.loss = loss
        self.positive_label_min = positive_label_min
        self.eval_metric_names = pair_metric_names(eval_dataset.labels, positive_label_min) if eval_dataset else ()
        # what `remove_unused_columns` would keep: the parent asks the model alone, and the loss reads two more
        self._signature_columns: Any = ["input_ids", "lengths", "text_ids", "labels"]
        self._statistics: dict[str, Tensor] = {}  # sums since the last log, kept on the device
        self._statistics_steps = 0
        options = {name: value for name, value in vars(loss).items() if name != "training" and name[0] != "_"}
        model.settings.loss = {"name": type(loss).__name__, **options}
        model.settings.decision = None  # a threshold belongs to the weights that it was chosen for

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, as the parent does, once the metric for the best model is known to exist."""
        metric = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if self.args.eval_strategy != IntervalStrategy.NO and metric not in self.eval_metric_names:
            raise UserError(
                f"--metric_for_best_model {self.args.metric_for_best_model} is none of the metrics of this eval data: "
                + ", ".join(f"eval_{name}" for name in self.eval_metric_names)
            )
        return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, as the parent does; a `PairDataset` may be given, too."""
        if isinstance(eval_dataset, PairDataset):
            eval_dataset = eval_dataset.tokens
        return super().evaluate(eval_dataset, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Embed all columns of the batch in one forward and call the loss; see the parent for the arguments."""
        labels, text_ids = inputs["labels"], inputs["text_ids"]
        embeddings = model(inputs["input_ids"], inputs["lengths"])  # (N, D)
        embeddings = embeddings.view(-1, len(labels), embeddings.shape[-1])  # (K, B, D)
        loss = self.loss(embeddings, labels, text_ids)
        for name, value in self.loss.statistics(embeddings.detach(), labels, text_ids).items():
            self._statistics[name] = self._statistics.get(name, torch.zeros_like(value)) + value
        self._statistics_steps += 1
        return (loss, embeddings) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's statistics, means over the batches since the last log."""
        if "loss" in logs and self._statistics_steps:
            logs.update({name: (total / self._statistics_steps).item() for name, total in self._statistics.items()})
            self._statistics, self._statistics_steps = {}, 0
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate the dataloader's dataset as a whole: each distinct text once, not batch by batch."""
        model: SentenceBert = self.accelerator.unwrap_model(self.model)
        result = evaluate_pairs(
            model,
            dataloader.dataset,
            batch_size=self.args.eval_batch_size,
            positive_label_min=self.positive_label_min,
            show_progress_bar=not self.args.disable_tqdm,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.metrics.items()}
        return EvalLoopOutput(
            predictions=result.scores, label_ids=None, metrics=metrics, num_samples=len(result.scores)
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # the parent would write the bare weights, and pickle its arguments
        if self.args.should_save:
            self.accelerator.unwrap_model(self.model).save_pretrained(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # the parent looks for its own weight names, finds none of them, and goes on with the weights it has
        self.accelerator.unwrap_model(self.model).load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None  # the parent asks first
        self._load_from_checkpoint(self.state.best_model_checkpoint)
