"""Losses: pure functions of embeddings (K, B, D), labels (B,) and text ids (N,)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

# Name -> class. The command line reads a loss's data formats, options and help texts from the source of the class, so a
# new loss is one file and one line here.
LOSSES = {
    "cosent": "cosent.losses.ranking:CoSENTLoss",
    "angle": "cosent.losses.ranking:AnglELoss",
    "infonce": "cosent.losses.contrastive:InfoNCELoss",
    "batch_hard_triplet": "cosent.losses.triplet:BatchHardTripletLoss",
}


class Loss(Protocol):
    """The interface of a loss that the trainer uses.

    Attributes:
        data_formats: the data formats that the loss learns from.
    """

    data_formats: ClassVar[tuple[str, ...]]

    def __call__(
        self, embeddings: "Tensor", labels: "Tensor | None" = None, text_ids: "Tensor | None" = None
    ) -> "Tensor":
        """Compute the scalar loss of embeddings (K, B, D), labels (B,) and text ids (K*B,)."""
        ...

    def statistics(
        self, embeddings: "Tensor", labels: "Tensor | None" = None, text_ids: "Tensor | None" = None
    ) -> dict[str, "Tensor"]:
        """Compute 0-dimensional float32 tensors for the log, which show whether training works."""
        ...


def loss_class(name: str) -> type[Any]:
    """Import the class of a loss.

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
    # the classes are imported on first use, so that the table alone costs nothing
    if name not in _by_class():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return loss_class(name)
