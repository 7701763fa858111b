"""The Trainer's arguments; transformers' own keep their meaning."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from cosent.errors import UserError
from cosent.evaluation.evaluators import LOWER_IS_BETTER
from cosent.progress import is_watched
from cosent.training.limits import check_limits


@dataclass
class CosentTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of this job, and a few flags of ours."""

    output_dir: str = field(default="output", metadata={"help": "Where runs go."})
    timestamp_output_dir: bool = field(
        default=True, metadata={"help": "Give each run a folder <model>-<timestamp> of its own under output_dir."}
    )
    # A ranking compares the pairs of a batch with each other: 8, the parent's default, would leave little to compare.
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs in a batch, per device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in an eval batch."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate."})
    warmup_ratio: float | None = field(
        default=None, metadata={"help": "Share of all steps to warm up over, like warmup_steps below 1."}
    )
    classes_per_batch: int = field(
        default=4, metadata={"help": "Classes: how many in a batch; the batch size follows."}
    )
    samples_per_class: int = field(default=8, metadata={"help": "Classes: rows of each in a batch, at most."})
    micro_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Embed a batch in pieces of this many tokens at most (gradient caching): the memory of a piece, "
            "the loss and the gradient of the batch, the time of one more forward pass."
        },
    )
    micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "The same, in pieces of as many tokens as this many examples have on average."},
    )
    gather_across_devices: bool = field(
        default=True,
        metadata={"help": "Several processes: compare the examples of all, as if they were one process's batch."},
    )
    no_duplicate_texts: bool = field(
        default=False, metadata={"help": "infonce: keep rows that share a text in different batches."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."}
    )
    # Small data has few steps: the parent's 500 would log and save nothing.
    logging_steps: float = field(default=0.05, metadata={"help": "Log every so many steps; below 1, share of them."})
    # A NaN loss must be seen; the parent would show the average of earlier losses in its place.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide nan and inf losses in the log."})
    eval_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."}
    )
    save_strategy: str | None = field(  # type: ignore[assignment]  # None until __post_init__
        default=None, metadata={"help": "When to save: no, steps, epoch or best. Default: as eval_strategy."}
    )
    save_steps: float | None = field(  # type: ignore[assignment]  # None until __post_init__
        default=None, metadata={"help": "Save every so many steps. Default: eval_steps."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep, the best among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model, not the last."})
    metric_for_best_model: str = field(
        default="auto",
        metadata={
            "help": "What makes a model the best. auto: eval_spearman for pairs, eval_triplet_accuracy, "
            "eval_knn_accuracy for classes, eval_alignment_plus_uniformity (lower is better) for sentences."
        },
    )
    # Whatever the pooling leaves unused is frozen, so every weight has a gradient: nothing to look for in each step.
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Several processes: look for weights that a step does not use, as some backbones have."},
    )
    # The batch's columns are the model's and the loss's together; the parent would keep only the model's.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has nothing to remove here."})
    report_to: str = field(default="none", metadata={"help": "Where to report: none, tensorboard, wandb, ..."})

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True  # else the parent refuses --bf16 where there is only a CPU
        if self.disable_tqdm is None:
            self.disable_tqdm = not is_watched()
        check_limits(self)
        if self.warmup_ratio is not None:
            self.warmup_steps = self.warmup_ratio
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy
        if self.save_steps is None:
            self.save_steps = self.eval_steps or self.logging_steps  # as the parent does for eval_steps
        self.metric_for_best_model = self.metric_for_best_model or "auto"  # the parent would put the loss for None
        if self.greater_is_better is None and self.metric_for_best_model.removeprefix("eval_") in LOWER_IS_BETTER:
            self.greater_is_better = False
        if str(self.fsdp).lower() in ("true", "false"):
            # the parent would take these for names of options
            self.fsdp = str(self.fsdp).lower() == "true"  # type: ignore[assignment]
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if self.accelerator_config is None and self.dataloader_pin_memory and not self.use_cpu:
            self.accelerator_config = {"non_blocking": True}  # batches on their way to a GPU are not waited for
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.auto_find_batch_size and self.world_size > 1:
            raise UserError("auto_find_batch_size tries sizes on one process; for several, take micro_batch_tokens")

    @property
    def n_gpu(self) -> int:
        """GPUs that this process uses: never several, which would make the Trainer cut the flat batch between them."""
        return min(1, super().n_gpu)
