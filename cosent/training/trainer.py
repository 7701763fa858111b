"""transformers' Trainer, wired to a SentenceBert, a pure loss and our evaluation.

Shapes: K texts an example, B examples, N = K*B texts, D dimensions.
"""

import logging
import math
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from cosent.data.collator import TokenBatchCollator
from cosent.data.datasets import TextDataset
from cosent.data.samplers import ClassBatchSampler, DistinctTextBatchSampler
from cosent.errors import UserError
from cosent.evaluation.evaluators import EvaluationOptions, default_metric, evaluate, metric_names
from cosent.losses import Loss
from cosent.losses.shapes import NO_TEXT
from cosent.modeling import SentenceBert
from cosent.training.arguments import CosentTrainingArguments

logger = logging.getLogger(__name__)

# What a loss's statistic says when it is mostly 1.
_WARNINGS = {
    "collapsed": "The hardest positives and the hardest negatives are all next to their anchors: the encoder maps all "
    "texts to one point. Lower the learning rate, or use --mining all or --soft_margin True.",
    "identical_views": "The two views of each sentence do not differ, so there is nothing to learn: the backbone's "
    "dropout is off. Turn it on with --dropout 0.1.",
}


class CosentTrainer(Trainer):
    """Fine-tunes a SentenceBert.

    Evaluation leaves the generators that training draws from as they are and restores the model's mode, so it changes
    nothing about training. Checkpoints are complete folders that `SentenceBert` and sentence-transformers load.

    Args:
        model: the encoder.
        args: see `CosentTrainingArguments`.
        loss: a function of embeddings (K, B, D), labels (B,) and text ids (N,).
        train_dataset: what to train on, of a format that the loss learns from. Sentences are embedded twice where the
            loss wants more than one text an example.
        eval_dataset: what chooses the best checkpoint, of any format.
        evaluation: how to evaluate; the batch size and the progress bar come from `args`.
        callbacks: more callbacks.

    Raises:
        UserError: if the loss does not learn from such data, `metric_for_best_model` is none of the eval data's
            metrics, or there is nothing to evaluate; from `train`, if there would be no step.
    """

    # The loss is one value for its batch: under accumulation the parent divides by the number of batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: SentenceBert,
        args: CosentTrainingArguments,
        loss: Loss,
        *,
        train_dataset: TextDataset | None = None,
        eval_dataset: TextDataset | None = None,
        evaluation: EvaluationOptions | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        args = copy(args)  # what follows belongs to this data, and not to whoever else uses the arguments
        callbacks = list(callbacks or ())
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        evaluation = evaluation or EvaluationOptions()
        _settle_metric(args, eval_dataset, evaluation)
        self._batch_sampler: ClassBatchSampler | DistinctTextBatchSampler | None = None
        collator = TokenBatchCollator()
        if train_dataset is not None:
            _check_format(loss, train_dataset)
            self._batch_sampler = _batch_sampler(train_dataset, args)
            collator = TokenBatchCollator(
                num_views=2 if train_dataset.data_format == "sentences" else 1,
                groups=train_dataset.positive_groups if train_dataset.data_format == "triplets" else None,
            )
        if self._batch_sampler is not None:
            callbacks.append(_SetEpoch(self._batch_sampler))
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset.tokens.with_format("numpy") if train_dataset else None,
            eval_dataset=eval_dataset,  # the parent asks for its length alone
            callbacks=callbacks,
        )
        self.loss = loss
        self.evaluation = replace(
            evaluation,
            batch_size=args.eval_batch_size,
            show_progress_bar=not args.disable_tqdm,
        )
        # what `remove_unused_columns` would keep: the parent asks the model alone, and the loss reads more
        self._signature_columns: Any = ["input_ids", "lengths", "text_ids", "labels"]
        self._statistics: dict[str, Tensor] = {}  # sums since the last log, kept on the device
        self._statistics_steps = 0
        self._warned: set[str] = set()
        model.settings.loss = describe_loss(loss)
        model.settings.decision = None  # a threshold belongs to the weights that it was chosen for

    def get_train_dataloader(self) -> DataLoader:
        """The parent's, but with batches of several rows a class, or without equal texts, where those are wanted."""
        if self._batch_sampler is None:
            plain = super().get_train_dataloader()
            if not len(plain):
                raise UserError("no batch is full, and --dataloader_drop_last leaves such out: there is no step")
            return plain
        dataset: Any = self.train_dataset
        loader = DataLoader(
            dataset,
            batch_sampler=self._batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Embed all columns of the batch in one forward and call the loss; see the parent for the arguments."""
        labels = inputs.get("labels")
        # what is known to match is no negative, and a text matches itself
        text_ids = inputs.get("group_ids", inputs["text_ids"])
        # (N, D), less where texts are missing
        embeddings = model(inputs["input_ids"], inputs["lengths"], inputs["max_length"])
        if len(embeddings) < len(text_ids):
            present = inputs["text_ids"] != NO_TEXT
            empty = embeddings.new_zeros(len(text_ids), embeddings.shape[1])
            embeddings = empty.masked_scatter(present[:, None], embeddings)  # unlike indexing, it waits for no device
        embeddings = embeddings.view(inputs["num_columns"], -1, embeddings.shape[-1])  # (K, B, D)
        loss = self.loss(embeddings, labels, text_ids)
        for name, value in self.loss.statistics(embeddings.detach(), labels, text_ids).items():
            self._statistics[name] = self._statistics.get(name, torch.zeros_like(value)) + value
        self._statistics_steps += 1
        return (loss, embeddings) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's statistics, means over the batches since the last log; warn once of what they give away."""
        if "loss" in logs and self._statistics_steps:
            means = {name: (total / self._statistics_steps).item() for name, total in self._statistics.items()}
            self._statistics, self._statistics_steps = {}, 0
            for name in means.keys() & _WARNINGS.keys() - self._warned:
                if means[name] > 0.5:
                    self._warned.add(name)
                    logger.warning(_WARNINGS[name])
            logs.update(means)
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate the dataloader's dataset as a whole: each distinct text once, not batch by batch."""
        model: SentenceBert = self.accelerator.unwrap_model(self.model)
        result = evaluate(model, dataloader.dataset, self.evaluation)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.metrics.items()}
        scores = np.empty(0) if result.scores is None else result.scores
        return EvalLoopOutput(predictions=scores, label_ids=None, metrics=metrics, num_samples=len(dataloader.dataset))

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


def describe_loss(loss: Loss) -> dict[str, Any]:
    """The name and the options of a loss, as checkpoints keep them."""
    options = {name: value for name, value in vars(loss).items() if name != "training" and name[0] != "_"}
    return {"name": type(loss).__name__, **options}


class _SetEpoch(TrainerCallback):
    """Tells a sampler which epoch begins: over several ranks the parent does not reach it when it resumes."""

    def __init__(self, sampler: ClassBatchSampler | DistinctTextBatchSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.sampler.set_epoch(math.floor((state.epoch or 0) + 1e-9))  # a resumed run begins within an epoch


def _settle_metric(args: CosentTrainingArguments, dataset: TextDataset | None, evaluation: EvaluationOptions) -> None:
    """Choose the metric for the best model where nobody did, and insist that there is such a metric."""
    if dataset is None:
        if args.eval_strategy != IntervalStrategy.NO:
            raise UserError("there is no eval data: give some, or set eval_strategy to 'no'")
        return
    if args.metric_for_best_model == "auto":
        metric, args.greater_is_better = default_metric(dataset)
        args.metric_for_best_model = f"eval_{metric}"
    names = metric_names(dataset, evaluation.positive_label_min)
    if args.eval_strategy != IntervalStrategy.NO and args.metric_for_best_model.removeprefix("eval_") not in names:
        raise UserError(
            f"--metric_for_best_model {args.metric_for_best_model} is none of the metrics of this eval data: "
            + ", ".join(f"eval_{name}" for name in names)
        )


def _check_format(loss: Loss, dataset: TextDataset) -> None:
    if dataset.data_format not in loss.data_formats:
        fix = ""
        if dataset.data_format == "pairs" and "triplets" in loss.data_formats:
            fix = "; make triplets of the pairs that match with Records.to_triplets, as scripts/train.py does"
        raise UserError(
            f"{type(loss).__name__} learns from {' or '.join(loss.data_formats)}, and "
            f"{dataset.records.report.path} holds {dataset.data_format}{fix}"
        )


def _batch_sampler(
    dataset: TextDataset, args: CosentTrainingArguments
) -> ClassBatchSampler | DistinctTextBatchSampler | None:
    """What batches need beyond a random order: several rows of a class, or no equal texts."""
    seed = args.seed if args.data_seed is None else args.data_seed
    if dataset.data_format == "classes":
        sampler = ClassBatchSampler(
            dataset.labels,
            classes_per_batch=args.classes_per_batch,
            samples_per_class=args.samples_per_class,
            seed=seed,
        )
        if sampler.num_singletons:
            logger.warning(
                "%d of %d classes have a single row, hence no positive: training leaves these rows out",
                sampler.num_singletons,
                len(np.unique(dataset.labels)),
            )
        logger.info("Batches of %d classes, up to %d rows each", sampler.classes_per_batch, sampler.samples_per_class)
        args.per_device_train_batch_size = sampler.rows_per_batch
        return sampler
    if not args.no_duplicate_texts:
        return None
    rows = np.split(dataset.text_ids, np.cumsum(dataset.num_texts)[:-1])
    return DistinctTextBatchSampler(
        rows, batch_size=args.per_device_train_batch_size, seed=seed, drop_last=args.dataloader_drop_last
    )
