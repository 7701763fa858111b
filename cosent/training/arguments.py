"""The command line's arguments; transformers' own keep their meaning."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from cosent.calibration import CalibrationMethod
from cosent.data.layouts import DataFormat
from cosent.data.readers import OnBadRows
from cosent.errors import UserError
from cosent.evaluation.bootstrap import NUM_RESAMPLES
from cosent.evaluation.evaluators import LOWER_IS_BETTER
from cosent.evaluation.threshold import THRESHOLD_METRICS, ThresholdMetric
from cosent.kernels.graphs import CudaGraphs
from cosent.losses import AnglELoss, BatchHardTripletLoss, CoSENTLoss, InfoNCELoss, Loss
from cosent.losses.contrastive import Negatives
from cosent.losses.triplet import Distance, Mining
from cosent.model.checkpoint import PoolingMode
from cosent.progress import is_watched

# spelt out, as argument parsers need it
DataFormatChoice = Literal["auto", "pairs", "sentences", "triplets", "classes"]


@dataclass
class ModelArguments:
    """Which encoder, and how it makes an embedding."""

    model_name_or_path: str = field(
        metadata={"help": "Hub id, Hugging Face folder, or a checkpoint of cosent or sentence-transformers."}
    )
    config_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another configuration."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another tokenizer."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the hub repository."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the checkpoint to run."})
    pooling_mode: PoolingMode | None = field(
        default=None, metadata={"help": "How tokens become an embedding. Default: as the checkpoint says, else mean."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens in a text at most. Default: as the checkpoint says, else the backbone's limit."},
    )
    normalize_embeddings: bool | None = field(
        default=None,
        metadata={"help": "Give embeddings unit length. Default: as the checkpoint says, else not."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "transformers' name of an attention implementation: eager, sdpa, ..."}
    )
    packing: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={"help": "Run texts through the backbone without padding. auto: where its architecture allows it."},
    )
    cuda_graphs: CudaGraphs = field(
        default="auto",
        metadata={
            "help": "Record what the encoder does on a GPU for a few sizes, and replay it. auto: where it can be."
        },
    )
    dropout: float | None = field(
        default=None,
        metadata={"help": "Rate of hidden and attention dropout in training. Default: as the checkpoint says."},
    )
    # Fine-tuning half-precision weights, in which many checkpoints are stored, loses small updates.
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32", metadata={"help": "Type of the weights; auto: as stored. --bf16 trains float32 weights."}
    )


@dataclass
class ReadingArguments:
    """How to read data files."""

    data_format: DataFormatChoice = field(
        default="auto",
        metadata={"help": "What a row means. auto: what the loss learns from, or what its names and fields say."},
    )
    text_columns: str | None = field(
        default=None,
        metadata={"help": "The text columns, as name1,name2, or by position from 0 without a header: 1,2."},
    )
    label_column: str | None = field(default=None, metadata={"help": "The label's column, by name or position."})
    on_bad_rows: OnBadRows = field(
        default="error", metadata={"help": "What to do about rows that cannot be used: error, or skip and count."}
    )
    positive_label_min: float | None = field(
        default=None,
        metadata={"help": "Graded labels from here on are a match, for thresholds and accuracy. 0/1 labels need none."},
    )

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options of `read_records`."""
        return {
            "data_format": self.data_format,
            "text_columns": names(self.text_columns),
            "label_column": self.label_column,
            "on_bad_rows": self.on_bad_rows,
        }


@dataclass
class EvaluationArguments(ReadingArguments):
    """How to score what was read."""

    num_neighbors: int = field(
        default=10, metadata={"help": "Nearest neighbours that vote on a text's class, in evaluation."}
    )
    num_resamples: int = field(
        default=NUM_RESAMPLES,
        metadata={"help": "Resamples of the bootstrap behind the 95%% intervals. 0: no intervals."},
    )

    def __post_init__(self) -> None:
        for name, least in (("num_neighbors", 1), ("num_resamples", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} must be at least {least}, got {getattr(self, name)}")


@dataclass
class DecisionArguments:
    """How a score becomes a decision and a probability."""

    threshold_metric: str | None = field(
        default=None,
        metadata={"help": f"Pairs: what the stored threshold is best at: {THRESHOLD_METRICS}. Default: accuracy."},
    )
    calibration: CalibrationMethod = field(
        default="auto",
        metadata={
            "help": "How scores become probabilities. auto: isotonic where that is better and data large enough."
        },
    )

    def __post_init__(self) -> None:
        if self.threshold_metric is not None:
            ThresholdMetric.parse(self.threshold_metric)


@dataclass(kw_only=True)
class DataArguments(EvaluationArguments):
    """Which data to train, choose and test on."""

    train_data_path: str = field(metadata={"help": "What to train on. README says which data each loss wants."})
    eval_data_path: str | None = field(
        default=None, metadata={"help": "What chooses the best checkpoint and, for pairs, the threshold."}
    )
    eval_data_format: DataFormatChoice = field(
        default="auto", metadata={"help": "What a row of the eval and test data means, as for --data_format."}
    )
    eval_text_columns: str | None = field(
        default=None,
        metadata={"help": "As --text_columns, for eval and test data. Default: the same, if their format is given so."},
    )
    eval_label_column: str | None = field(
        default=None, metadata={"help": "As --label_column, for eval and test data. Default: likewise."}
    )
    eval_fraction: float = field(
        default=0.1,
        metadata={"help": "Without --eval_data_path: share of the training data to hold out, by text. 0: none."},
    )
    test_data_path: str | None = field(
        default=None, metadata={"help": "Data that chooses nothing: scored before and after training."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a random sample of this many examples, drawn with --seed."}
    )
    use_negatives: bool = field(
        default=False,
        metadata={"help": "Pairs with infonce: the second text of a 0 row is a hard negative of its first text."},
    )
    knn_index: Literal["train", "eval"] = field(
        default="train",
        metadata={"help": "Classes: look for neighbours in the training data, or in the evaluated data itself."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"--eval_fraction must be at least 0 and below 1, got {self.eval_fraction}")
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise UserError(f"--max_train_samples must be at least 1, got {self.max_train_samples}")

    def eval_reading_options(self, train_format: DataFormat) -> dict[str, Any]:
        """The options of `read_records` for eval and test data.

        Args:
            train_format: what the training data turned out to be. Columns that are declared for it hold for eval data
                of the same format; sentences are mostly evaluated on other data.
        """
        options = {**self.reading_options, "data_format": self.eval_data_format}
        same = self.eval_data_format == train_format or self.eval_data_format == "auto" and train_format != "sentences"
        if not same or self.eval_text_columns or self.eval_label_column:
            options["text_columns"] = names(self.eval_text_columns)
            options["label_column"] = self.eval_label_column
        return options


@dataclass
class LossArguments:
    """What to minimise."""

    loss: Literal["cosent", "angle", "infonce", "batch_hard_triplet"] = field(
        default="cosent",
        metadata={
            "help": "Ranking of pairs by cosine, or by AnglE's angle; InfoNCE with in-batch negatives (SimCSE for "
            "sentences); triplets of classes."
        },
    )
    scale: float = field(default=20.0, metadata={"help": "What scores are multiplied by: 1 / temperature."})
    negatives: Negatives = field(
        default="targets",
        metadata={"help": "infonce: each anchor against all positives and negatives, or all texts against all others."},
    )
    symmetric: bool = field(default=False, metadata={"help": "infonce: positives look for their anchors, too."})
    margin: float = field(default=1.0, metadata={"help": "batch_hard_triplet: how much farther a negative should be."})
    distance: Distance = field(default="euclidean", metadata={"help": "batch_hard_triplet: euclidean, or 1 - cosine."})
    soft_margin: bool = field(default=False, metadata={"help": "batch_hard_triplet: softplus in place of a margin."})
    mining: Mining = field(default="hard", metadata={"help": "batch_hard_triplet: which triplets of a batch to take."})

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"--scale must be above 0, got {self.scale}")
        own = {
            "infonce": ("scale", "negatives", "symmetric"),
            "batch_hard_triplet": ("margin", "distance", "soft_margin", "mining"),
        }.get(self.loss, ("scale",))
        for option in fields(self):
            if option.name not in ("loss", *own) and getattr(self, option.name) != option.default:
                raise UserError(f"--{option.name} means nothing to --loss {self.loss}")

    def build(self) -> Loss:
        """The loss itself."""
        try:
            if self.loss == "infonce":
                return InfoNCELoss(self.scale, self.negatives, self.symmetric)
            if self.loss == "batch_hard_triplet":
                return BatchHardTripletLoss(self.margin, self.distance, self.soft_margin, mining=self.mining)
        except ValueError as error:
            raise UserError(str(error)) from error
        return {"cosent": CoSENTLoss, "angle": AnglELoss}[self.loss](scale=self.scale)


def names(columns: str | None) -> tuple[str, ...] | None:
    """Column names that a flag gives, separated by commas."""
    return tuple(name.strip() for name in columns.split(",")) if columns else None


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
        default=None, metadata={"help": "Share of all steps to warm up over, like a --warmup_steps below 1."}
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
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
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
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1 or self.warmup_steps:
                raise UserError("--warmup_ratio must be at least 0 and below 1, and takes the place of --warmup_steps")
            self.warmup_steps = self.warmup_ratio
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy
        if self.save_steps is None:
            self.save_steps = self.eval_steps or self.logging_steps  # as the parent does for eval_steps
        self.metric_for_best_model = self.metric_for_best_model or "auto"  # the parent would put the loss for None
        if self.greater_is_better is None and self.metric_for_best_model.removeprefix("eval_") in LOWER_IS_BETTER:
            self.greater_is_better = False
        if self.classes_per_batch < 2 or self.samples_per_class < 2:
            raise UserError("--classes_per_batch and --samples_per_class must be at least 2")
        for name in ("micro_batch_tokens", "micro_batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.micro_batch_tokens and self.micro_batch_size:
            raise UserError("--micro_batch_tokens and --micro_batch_size say the same in two ways: give one of them")
        if str(self.fsdp).lower() in ("true", "false"):
            # the parent would take these for names of options
            self.fsdp = str(self.fsdp).lower() == "true"  # type: ignore[assignment]
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
            if self.early_stopping_patience is not None:
                raise UserError("--early_stopping_patience needs evaluations: not --eval_strategy no")
        if self.accelerator_config is None and self.dataloader_pin_memory:
            self.accelerator_config = {"non_blocking": True}  # batches on their way to a GPU are not waited for
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(str(error)) from error
        if self.auto_find_batch_size and self.world_size > 1:
            raise UserError("--auto_find_batch_size tries sizes on one process; for several, take --micro_batch_tokens")

    @property
    def n_gpu(self) -> int:
        """GPUs that this process uses: never several, which would make the Trainer cut the flat batch between them."""
        return min(1, super().n_gpu)
