"""Fine-tune sentence encoders that decide whether two texts match."""

from importlib import import_module
from typing import TYPE_CHECKING

from cosent.version import __version__

if TYPE_CHECKING:
    from cosent.data.checking import check_data, split_data
    from cosent.data.datasets import TextDataset, load_data, read_records
    from cosent.data.retrieval import read_qrels, read_texts
    from cosent.data.streams import stream_data
    from cosent.errors import CheckpointError, DataError, UserError
    from cosent.evaluation.comparison import compare
    from cosent.evaluation.decide import DecisionOptions, calibrate
    from cosent.evaluation.evaluators import EvaluationOptions, evaluate
    from cosent.evaluation.report import report
    from cosent.evaluation.search import RetrievalEvaluation, evaluate_retrieval
    from cosent.losses.contrastive import InfoNCELoss
    from cosent.losses.ranking import AnglELoss, CoSENTLoss
    from cosent.losses.triplet import BatchHardTripletLoss
    from cosent.model.encoder import Prediction, SentenceBert
    from cosent.model.search import Hits
    from cosent.training.arguments import CosentTrainingArguments
    from cosent.training.trainer import CosentTrainer

# Each name is imported on first use, so that `import cosent` costs nothing.
_HOME = {
    "AnglELoss": "cosent.losses.ranking",
    "BatchHardTripletLoss": "cosent.losses.triplet",
    "CheckpointError": "cosent.errors",
    "CoSENTLoss": "cosent.losses.ranking",
    "CosentTrainer": "cosent.training.trainer",
    "CosentTrainingArguments": "cosent.training.arguments",
    "DataError": "cosent.errors",
    "DecisionOptions": "cosent.evaluation.decide",
    "EvaluationOptions": "cosent.evaluation.evaluators",
    "Hits": "cosent.model.search",
    "InfoNCELoss": "cosent.losses.contrastive",
    "Prediction": "cosent.model.encoder",
    "RetrievalEvaluation": "cosent.evaluation.search",
    "SentenceBert": "cosent.model.encoder",
    "TextDataset": "cosent.data.datasets",
    "UserError": "cosent.errors",
    "calibrate": "cosent.evaluation.decide",
    "check_data": "cosent.data.checking",
    "compare": "cosent.evaluation.comparison",
    "evaluate": "cosent.evaluation.evaluators",
    "evaluate_retrieval": "cosent.evaluation.search",
    "load_data": "cosent.data.datasets",
    "read_qrels": "cosent.data.retrieval",
    "read_records": "cosent.data.datasets",
    "read_texts": "cosent.data.retrieval",
    "report": "cosent.evaluation.report",
    "split_data": "cosent.data.checking",
    "stream_data": "cosent.data.streams",
}

__all__ = [
    "AnglELoss",
    "BatchHardTripletLoss",
    "CheckpointError",
    "CoSENTLoss",
    "CosentTrainer",
    "CosentTrainingArguments",
    "DataError",
    "DecisionOptions",
    "EvaluationOptions",
    "Hits",
    "InfoNCELoss",
    "Prediction",
    "RetrievalEvaluation",
    "SentenceBert",
    "TextDataset",
    "UserError",
    "__version__",
    "calibrate",
    "check_data",
    "compare",
    "evaluate",
    "evaluate_retrieval",
    "load_data",
    "read_qrels",
    "read_records",
    "read_texts",
    "report",
    "split_data",
    "stream_data",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
