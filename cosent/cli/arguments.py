"""Flags that commands share; each is declared once. Those of one command stand with it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cosent.cli.sources import constant, table_names
from cosent.data.formats import FORMATS, DataFormat
from cosent.data.readers import OnBadRows
from cosent.errors import UserError
from cosent.evaluation.threshold import THRESHOLD_METRICS, ThresholdMetric

if TYPE_CHECKING:
    from cosent.calibration import CalibrationMethod
    from cosent.evaluation.bootstrap import NUM_RESAMPLES
    from cosent.kernels.graphs import CudaGraphs
    from cosent.model.pooling import PoolingMode

    DataFormatChoice = str
else:  # these modules import torch or scipy
    CalibrationMethod = constant("cosent.calibration", "CalibrationMethod")
    NUM_RESAMPLES = constant("cosent.evaluation.bootstrap", "NUM_RESAMPLES")
    CudaGraphs = constant("cosent.kernels.graphs", "CudaGraphs")
    PoolingMode = Literal[table_names("cosent.model.pooling", "POOLING_MODES")]
    DataFormatChoice = Literal[("auto", *FORMATS)]  # of which a type checker could make nothing


@dataclass(kw_only=True)
class TrustArguments:
    """What a checkpoint may do."""

    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the checkpoint to run."})


@dataclass(kw_only=True)
class CheckpointArguments(TrustArguments):
    """Which encoder, as it is."""

    model_name_or_path: str = field(
        metadata={"help": "Hub id, Hugging Face folder, or a checkpoint of cosent or sentence-transformers."}
    )


@dataclass(kw_only=True)
class DeviceArguments:
    """Where to run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


@dataclass(kw_only=True)
class BatchArguments(DeviceArguments):
    """Where to run, and in which portions."""

    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})


@dataclass(kw_only=True)
class ModelArguments(CheckpointArguments):
    """Which encoder, and how it makes an embedding."""

    _argument_group_name: ClassVar[str] = "model"

    config_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another configuration."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another tokenizer."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the hub repository."})
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

    _argument_group_name: ClassVar[str] = "data"
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

    _argument_group_name: ClassVar[str] = "decision"
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

    train_data_path: str = field(
        metadata={"help": "What to train on. docs/training.md says which data each loss wants."}
    )
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


def names(columns: str | None) -> tuple[str, ...] | None:
    """Column names that a flag gives, separated by commas."""
    return tuple(name.strip() for name in columns.split(",")) if columns else None
