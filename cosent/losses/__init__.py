"""Losses: pure functions of embeddings (K, B, D), labels (B,) and text ids (N,)."""

from typing import ClassVar, Protocol

from torch import Tensor

from cosent.losses.contrastive import InfoNCELoss
from cosent.losses.ranking import AnglELoss, CoSENTLoss
from cosent.losses.triplet import BatchHardTripletLoss

__all__ = ["AnglELoss", "BatchHardTripletLoss", "CoSENTLoss", "InfoNCELoss", "Loss"]


class Loss(Protocol):
    """What a trainer needs of a loss.

    Attributes:
        data_formats: the formats of data that it learns from.
    """

    data_formats: ClassVar[tuple[str, ...]]

    def __call__(self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None) -> Tensor:
        """The loss of a batch: (K, B, D), (B,) and (K*B,) in, a scalar out."""
        ...

    def statistics(
        self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """0-dimensional float32 tensors that tell whether training works, for the log."""
        ...
