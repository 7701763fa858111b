"""Fine-tune sentence encoders that decide whether two texts match."""

from importlib import import_module
from typing import TYPE_CHECKING

from cosent.version import __version__

if TYPE_CHECKING:
    from cosent.data.datasets import TextDataset, load_data, read_records
    from cosent.errors import CheckpointError, DataError, UserError
    from cosent.evaluation.evaluators import EvaluationOptions, evaluate
    from cosent.losses.contrastive import InfoNCELoss
    from cosent.losses.ranking import AnglELoss, CoSENTLoss
    from cosent.losses.triplet import BatchHardTripletLoss
    from cosent.model.encoder import Prediction, SentenceBert
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
    "EvaluationOptions": "cosent.evaluation.evaluators",
    "InfoNCELoss": "cosent.losses.contrastive",
    "Prediction": "cosent.model.encoder",
    "SentenceBert": "cosent.model.encoder",
    "TextDataset": "cosent.data.datasets",
    "UserError": "cosent.errors",
    "evaluate": "cosent.evaluation.evaluators",
    "load_data": "cosent.data.datasets",
    "read_records": "cosent.data.datasets",
}

__all__ = [
    "AnglELoss",
    "BatchHardTripletLoss",
    "CheckpointError",
    "CoSENTLoss",
    "CosentTrainer",
    "CosentTrainingArguments",
    "DataError",
    "EvaluationOptions",
    "InfoNCELoss",
    "Prediction",
    "SentenceBert",
    "TextDataset",
    "UserError",
    "__version__",
    "evaluate",
    "load_data",
    "read_records",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
