"""Flags that several commands share, each declared once; flags of a single command are in its module."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cosent.cli.sources import constant, table_names
from cosent.data.formats import FORMATS, DataFormat
from cosent.data.lines import MAX_TEXT_BYTES
from cosent.data.readers import OnBadRows
from cosent.errors import UserError
from cosent.evaluation.threshold import THRESHOLD_METRICS, ThresholdMetric

if TYPE_CHECKING:
    from cosent.calibration import CalibrationMethod
    from cosent.data.streams import BUFFER_SIZE
    from cosent.evaluation.bootstrap import NUM_RESAMPLES
    from cosent.kernels.graphs import CudaGraphs
    from cosent.model.pooling import PoolingMode

    DataFormatChoice = str
else:  # these modules import torch or scipy
    CalibrationMethod = constant("cosent.calibration", "CalibrationMethod")
    BUFFER_SIZE = constant("cosent.data.streams", "BUFFER_SIZE")
    NUM_RESAMPLES = constant("cosent.evaluation.bootstrap", "NUM_RESAMPLES")
    CudaGraphs = constant("cosent.kernels.graphs", "CudaGraphs")
    PoolingMode = Literal[table_names("cosent.model.pooling", "POOLING_MODES")]
    DataFormatChoice = Literal[("auto", *FORMATS)]  # a type checker cannot evaluate this


@dataclass(kw_only=True)
class TrustArguments:
    """Trust in a checkpoint's code."""

    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the checkpoint to run."})


@dataclass(kw_only=True)
class CheckpointArguments(TrustArguments):
    """Which encoder to use."""

    model_name_or_path: str = field(
        metadata={"help": "Hub id, Hugging Face folder, or a checkpoint of cosent or sentence-transformers."}
    )


@dataclass(kw_only=True)
class DeviceArguments:
    """Where to run."""

    device: Literal["auto", "cpu", "cuda", "mps"] = field(default="auto", metadata={"help": "Where to run."})


@dataclass(kw_only=True)
class BatchArguments(DeviceArguments):
    """Where to run, and the batch size."""

    batch_size: int = field(default=64, metadata={"help": "Batch size in texts of 128 tokens."})


@dataclass(kw_only=True)
class ModelArguments(CheckpointArguments):
    """Which encoder to use, and how it makes an embedding."""

    _argument_group_name: ClassVar[str] = "model"

    config_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another configuration."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Hub id or folder of another tokenizer."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the hub repository."})
    pooling_mode: PoolingMode | None = field(
        default=None, metadata={"help": "How tokens become an embedding. Default: the checkpoint's, else mean."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Maximum number of tokens in a text. Default: the checkpoint's, else the backbone's limit."},
    )
    normalize_embeddings: bool | None = field(
        default=None,
        metadata={"help": "Scale embeddings to unit length. Default: the checkpoint's, else False."},
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention implementation of transformers: eager, sdpa, ..."}
    )
    packing: Literal["auto", "on", "off"] = field(
        default="auto",
        metadata={"help": "Run texts through the backbone without padding. auto: if its architecture allows it."},
    )
    cuda_graphs: CudaGraphs = field(
        default="auto",
        metadata={
            "help": "Record the encoder's work on a GPU for a few batch sizes, and replay it. auto: if possible."
        },
    )
    dropout: float | None = field(
        default=None,
        metadata={"help": "Rate of hidden and attention dropout in training. Default: the checkpoint's."},
    )
    # Many checkpoints are stored in half precision, in which fine-tuning would lose small updates.
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32", metadata={"help": "Type of the weights; auto: as stored. --bf16 trains float32 weights."}
    )


@dataclass(kw_only=True)
class PromptArguments:
    """How to embed the two sides of a search."""

    query_prompt: str | None = field(
        default=None, metadata={"help": "Search: prefix for the queries. Default: the checkpoint's, if any."}
    )
    document_prompt: str | None = field(
        default=None, metadata={"help": "Search: prefix for the corpus's texts. Default: the checkpoint's, if any."}
    )


@dataclass
class ReadingArguments:
    """How to read data files."""

    _argument_group_name: ClassVar[str] = "data"
    data_format: DataFormatChoice = field(
        default="auto",
        metadata={"help": "Format of the rows. auto: detect it from the loss, the column names and the fields."},
    )
    text_columns: str | None = field(
        default=None,
        metadata={"help": "The text columns, as name1,name2, or by position from 0 without a header: 1,2."},
    )
    label_column: str | None = field(default=None, metadata={"help": "The label column, by name or position."})
    on_bad_rows: OnBadRows = field(
        default="error", metadata={"help": "What to do with unusable rows: error, or skip and count them."}
    )
    max_text_bytes: int = field(
        default=MAX_TEXT_BYTES,
        metadata={"help": "Maximum number of bytes in a line, a .csv row or a text; longer ones are bad rows."},
    )
    positive_label_min: float | None = field(
        default=None,
        metadata={"help": "The lowest graded label of a match, for thresholds and accuracy. 0/1 labels need none."},
    )

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options of `read_records`."""
        return {
            "data_format": self.data_format,
            "text_columns": names(self.text_columns),
            "label_column": self.label_column,
            "on_bad_rows": self.on_bad_rows,
            "max_text_bytes": self.max_text_bytes,
        }


@dataclass
class EvaluationArguments(ReadingArguments):
    """How to evaluate the data."""

    num_neighbors: int = field(
        default=10, metadata={"help": "Number of nearest neighbours that vote on a text's class."}
    )
    num_resamples: int = field(
        default=NUM_RESAMPLES,
        metadata={"help": "Bootstrap resamples behind the 95%% intervals. 0: no intervals."},
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
        metadata={"help": f"Pairs: criterion for the stored threshold: {THRESHOLD_METRICS}. Default: accuracy."},
    )
    calibration: CalibrationMethod = field(
        default="auto",
        metadata={"help": "How scores become probabilities. auto: isotonic if it is better and the data large enough."},
    )

    def __post_init__(self) -> None:
        if self.threshold_metric is not None:
            ThresholdMetric.parse(self.threshold_metric)


@dataclass(kw_only=True)
class DataArguments(EvaluationArguments):
    """Which data to train, evaluate and test on."""

    train_data_path: list[str] = field(
        metadata={
            "help": "Training data: files, a glob, a folder, or hub:owner/name[:config[:split]]. docs/training.md says "
            "which data each loss learns from."
        }
    )
    train_split: str | None = field(
        default=None, metadata={"help": "Split of training data that has several. Default: train."}
    )
    eval_data_path: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data that selects the best checkpoint and, for pairs, the threshold. Several sets have names: "
            "dev=dev.tsv other=other.tsv. The first one selects, unless --metric_for_best_model names another."
        },
    )
    eval_data_format: DataFormatChoice = field(
        default="auto", metadata={"help": "Format of the eval and test data, as in --data_format."}
    )
    eval_text_columns: str | None = field(
        default=None,
        metadata={"help": "--text_columns of the eval and test data. Default: the same, if the format is the same."},
    )
    eval_label_column: str | None = field(
        default=None, metadata={"help": "--label_column of the eval and test data. Default: as for its text columns."}
    )
    eval_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of the training data to hold out, by text, without --eval_data_path. 0: none."},
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split of eval data that has several. Default: validation."}
    )
    test_data_path: list[str] = field(
        default_factory=list, metadata={"help": "Data scored before and after training; it selects nothing."}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split of test data that has several. Default: test."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read, shuffle and tokenise the training data while training runs, if it is too large to store. "
            "Needs --max_steps, and --eval_data_path or --eval_fraction 0 --eval_strategy no."
        },
    )
    buffer_size: int = field(
        default=BUFFER_SIZE, metadata={"help": "--streaming: number of examples among which the next one is drawn."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a random sample of this many examples, drawn with --seed."}
    )
    use_negatives: bool = field(
        default=False,
        metadata={"help": "Pairs with infonce: second texts of non-matching pairs are hard negatives of the first."},
    )
    knn_index: Literal["train", "eval"] = field(
        default="train",
        metadata={"help": "Data with classes: search neighbours in the training data or the evaluated data itself."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_data_path", "eval_data_path", "test_data_path"):
            setattr(self, name, [path for path in getattr(self, name) if path])
        if not self.train_data_path:
            raise UserError("--train_data_path is empty")
        if not 0 <= self.eval_fraction < 1:
            raise UserError(f"--eval_fraction must be at least 0 and below 1, got {self.eval_fraction}")
        _ = self.eval_data  # refuses mixed names
        if self.streaming:
            self._check_stream()
        if self.max_train_samples is not None and self.max_train_samples < 1:
            raise UserError(f"--max_train_samples must be at least 1, got {self.max_train_samples}")

    def _check_stream(self) -> None:
        """Refuse what needs to see all training data."""
        if self.eval_fraction and not self.eval_data_path:
            raise UserError("--streaming holds nothing out: give --eval_data_path, or --eval_fraction 0")
        for name, default in (("max_train_samples", None), ("use_negatives", False)):
            if getattr(self, name) != default:
                raise UserError(f"--{name} needs to see all data, which --streaming does not")

    @property
    def eval_data(self) -> dict[str, list[str]]:
        """The paths of the eval data by name, "" for data without one."""
        named: dict[str, list[str]] = {}
        for path in self.eval_data_path:
            name, path = named_path(path)
            named.setdefault(name, []).append(path)
        if len(named) > 1 and "" in named:
            raise UserError(f"--eval_data_path {named[''][0]} has no name, unlike others: give all of them a name")
        return named

    def eval_reading_options(self, train_format: DataFormat) -> dict[str, Any]:
        """The options of `read_records` for eval and test data.

        Args:
            train_format: the format of the training data. Columns declared for it also apply to eval data of the same
                format, except for sentences, which are mostly evaluated on other data.
        """
        options = {**self.reading_options, "data_format": self.eval_data_format}
        same = self.eval_data_format == train_format or self.eval_data_format == "auto" and train_format != "sentences"
        if not same or self.eval_text_columns or self.eval_label_column:
            options["text_columns"] = names(self.eval_text_columns)
            options["label_column"] = self.eval_label_column
        return options


def one_or_all(paths: list[str]) -> str | list[str]:
    """Return the only path, or all of them."""
    return paths[0] if len(paths) == 1 else paths


def named_path(path: str) -> tuple[str, str]:
    """Split name=path into the name, "" if there is none, and the path."""
    name, separator, rest = path.partition("=")
    return (name, rest) if separator and name.isidentifier() and not Path(path).exists() else ("", path)


def names(columns: str | None) -> tuple[str, ...] | None:
    """Split a flag's column names at commas."""
    return tuple(name.strip() for name in columns.split(",")) if columns else None
