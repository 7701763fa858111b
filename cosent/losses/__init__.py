"""Losses: pure functions of embeddings (K, B, D), labels (B,) and text ids (N,)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

# Name -> the class. The command line reads the formats that a loss learns from, its options and their help from the
# class's source, so a new loss is one file and one line here.
LOSSES = {
    "cosent": "cosent.losses.ranking:CoSENTLoss",
    "angle": "cosent.losses.ranking:AnglELoss",
    "infonce": "cosent.losses.contrastive:InfoNCELoss",
    "batch_hard_triplet": "cosent.losses.triplet:BatchHardTripletLoss",
}


class Loss(Protocol):
    """What a trainer needs of a loss.

    Attributes:
        data_formats: the formats of data that it learns from.
    """

    data_formats: ClassVar[tuple[str, ...]]

    def __call__(
        self, embeddings: "Tensor", labels: "Tensor | None" = None, text_ids: "Tensor | None" = None
    ) -> "Tensor":
        """The loss of a batch: (K, B, D), (B,) and (K*B,) in, a scalar out."""
        ...

    def statistics(
        self, embeddings: "Tensor", labels: "Tensor | None" = None, text_ids: "Tensor | None" = None
    ) -> dict[str, "Tensor"]:
        """0-dimensional float32 tensors that tell whether training works, for the log."""
        ...


def loss_class(name: str) -> type[Any]:
    """The class of a loss.

    Args:
        name: a key of `LOSSES`, or the name of a class in it.

    Raises:
        KeyError: if there is no such loss.
    """
    module, _, class_name = {**_by_class(), **LOSSES}[name].partition(":")
    loss: type[Any] = getattr(import_module(module), class_name)
    return loss


def _by_class() -> dict[str, str]:
    return {path.partition(":")[2]: path for path in LOSSES.values()}


def __getattr__(name: str) -> Any:
    # the classes are imported when they are first used: the table alone costs nothing
    if name not in _by_class():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return loss_class(name)
