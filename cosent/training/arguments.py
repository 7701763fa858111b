"""The Trainer's arguments; those of transformers keep their meaning."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from cosent.errors import UserError
from cosent.evaluation.evaluators import is_lower_better
from cosent.progress import is_watched
from cosent.training.limits import check_limits


@dataclass
class CosentTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with other defaults and a few more flags."""

    output_dir: str = field(default="output", metadata={"help": "The folder for runs."})
    timestamp_output_dir: bool = field(
        default=True, metadata={"help": "Give each run its own folder <model>-<timestamp> under output_dir."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Without timestamp_output_dir: replace a run in output_dir and its checkpoints."},
    )
    # Losses compare the pairs of a batch with each other: the parent's default, 8, would leave little to compare.
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs per batch and device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Eval batch size in texts of 128 tokens."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate."})
    warmup_ratio: float | None = field(
        default=None, metadata={"help": "Share of all steps used for warmup, like warmup_steps below 1."}
    )
    classes_per_batch: int = field(
        default=4, metadata={"help": "Data with classes: classes per batch; sets the batch size."}
    )
    samples_per_class: int = field(default=8, metadata={"help": "Data with classes: most rows of a class per batch."})
    micro_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Embed a batch in pieces of at most this many tokens (gradient caching). Only one piece must fit "
            "into memory; loss and gradient stay those of the batch, for one more forward pass."
        },
    )
    micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "Like micro_batch_tokens, with pieces the size of this many average examples."},
    )
    gather_across_devices: bool = field(
        default=True,
        metadata={"help": "Several processes: compare the examples of all of them, like one large batch."},
    )
    no_duplicate_texts: bool = field(
        default=False, metadata={"help": "infonce: put rows that share a text into different batches."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations in a row without improvement."}
    )
    # Small data gives few steps: with the parent's 500, nothing would be logged or saved.
    logging_steps: float = field(default=0.05, metadata={"help": "Log every N steps; below 1: a share of all."})
    # A NaN loss must be visible; the parent would show the average of earlier losses instead.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide nan and inf losses in the log."})
    eval_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."}
    )
    save_strategy: str | None = field(  # type: ignore[assignment]  # None until __post_init__
        default=None, metadata={"help": "When to save: no, steps, epoch or best. Default: eval_strategy."}
    )
    save_steps: float | None = field(  # type: ignore[assignment]  # None until __post_init__
        default=None, metadata={"help": "Save every N steps. Default: eval_steps."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep, including the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model, not the last."})
    metric_for_best_model: str = field(
        default="auto",
        metadata={
            "help": "The metric that selects the best model. auto: eval_spearman for pairs, eval_triplet_accuracy "
            "for triplets, eval_knn_accuracy for classes, eval_alignment_plus_uniformity (lower is better) for "
            "sentences."
        },
    )
    # Weights that the pooling does not use are frozen. All others get a gradient, so there is nothing to search for.
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Several processes: search for weights that a step does not use; some backbones have them."},
    )
    # A batch has columns for the model and the loss; the parent would keep only the model's.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Has no effect in cosent."})
    report_to: str = field(default="none", metadata={"help": "Where to report: none, tensorboard, wandb, ..."})

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise the parent refuses --bf16 on a machine with only a CPU
        if self.disable_tqdm is None:
            self.disable_tqdm = not is_watched()
        check_limits(self)
        if self.warmup_ratio is not None:
            self.warmup_steps = self.warmup_ratio
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy
        if self.save_steps is None:
            self.save_steps = self.eval_steps or self.logging_steps  # as the parent does for eval_steps
        self.metric_for_best_model = self.metric_for_best_model or "auto"  # the parent would replace None by the loss
        if self.greater_is_better is None and is_lower_better(self.metric_for_best_model):
            self.greater_is_better = False
        if str(self.fsdp).lower() in ("true", "false"):
            # the parent would read these as names of options
            self.fsdp = str(self.fsdp).lower() == "true"  # type: ignore[assignment]
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if self.accelerator_config is None and self.dataloader_pin_memory and not self.use_cpu:
            self.accelerator_config = {"non_blocking": True}  # copy batches to a GPU asynchronously
        try:
            super().__post_init__()
        except (ImportError, NotImplementedError, ValueError) as error:
            raise UserError(str(error)) from error
        if self.save_on_each_node and self.world_size > 1:
            raise UserError("save_on_each_node would part a checkpoint's files: give all nodes one shared output_dir")
        if self.auto_find_batch_size and self.world_size > 1:
            raise UserError("auto_find_batch_size tries sizes on one process; for several, take micro_batch_tokens")

    @property
    def n_gpu(self) -> int:
        """The GPUs that this process uses: one at most, as the Trainer would split the flat batch between several."""
        return min(1, super().n_gpu)
