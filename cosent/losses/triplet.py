"""Triplet losses over classes: a text should be nearer to its own class than to any other.

Shapes: B examples, D dimensions.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosent.losses.shapes import check_labels
from cosent.similarity import cosine_matrix, euclidean_matrix

Distance = Literal["euclidean", "cosine"]
Mining = Literal["hard", "semi_hard", "all"]

_COLLAPSED = 0.01  # of the embeddings' length


class BatchHardTripletLoss(nn.Module):
    """Mean over triplets of max(0, margin + d(anchor, positive) - d(anchor, negative)), mined within the batch.

    "hard" takes, for each anchor, its farthest positive and its nearest negative. "semi_hard" takes, for each anchor
    and positive, the nearest negative that is farther than the positive, or the farthest where there is none. "all"
    takes every triplet whose loss is above 0. All need O(B^2) memory, and gradients flow through the distances of
    the triplets taken alone. Anchors without a positive or without a negative are left out of the mean; a batch
    without any valid anchor gives a zero that stays on the graph.

    Args:
        margin: by how much a negative should be farther than a positive; not used by the soft margin.
        distance: "euclidean", or "cosine" for 1 - cosine.
        soft_margin: log(1 + exp(d(anchor, positive) - d(anchor, negative))) in place of the hinge; with "hard" only.
        mining: which triplets of the batch to take.

    Raises:
        ValueError: if an option is unknown, the margin negative, or the soft margin asked for with another mining.

    Reference: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equations
        5 ("hard") and 6 ("all"); Schroff, Kalenichenko and Philbin, "FaceNet", 2015, section 3.2 ("semi_hard").
    """

    data_formats: ClassVar[tuple[str, ...]] = ("classes",)

    def __init__(
        self,
        margin: float = 1.0,
        distance: Distance = "euclidean",
        soft_margin: bool = False,
        *,
        mining: Mining = "hard",
    ):
        super().__init__()
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance must be 'euclidean' or 'cosine', got {distance!r}")
        if mining not in ("hard", "semi_hard", "all"):
            raise ValueError(f"mining must be 'hard', 'semi_hard' or 'all', got {mining!r}")
        if margin < 0:
            raise ValueError(f"margin must not be negative, got {margin}")
        if soft_margin and mining != "hard":
            raise ValueError(f"soft_margin goes with mining='hard', got mining={mining!r}")
        self.margin = margin
        self.distance = distance
        self.soft_margin = soft_margin
        self.mining = mining

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            embeddings: (1, B, D).
            labels: (B,) class ids.
            text_ids: not used: equal texts of one class are valid, if easy, positives.

        Returns:
            Scalar, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: if a shape is off or labels are missing.
        """
        labels = check_labels(embeddings, labels, columns=1, meaning="class ids")
        distances = self._distances(embeddings[0])
        positive, negative = _pairs(labels)
        if self.mining == "all":
            return self._all(distances, positive, negative)
        if self.mining == "semi_hard":
            return self._semi_hard(distances, positive, negative)
        return self._hard(distances, positive, negative)

    def _distances(self, embeddings: Tensor) -> Tensor:
        if self.distance == "cosine":
            return 1 - cosine_matrix(embeddings, embeddings)
        return euclidean_matrix(embeddings, embeddings)

    def _hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        farthest, nearest = _hardest(distances, positive, negative)  # (B,)
        gap = farthest - nearest
        losses = F.softplus(gap) if self.soft_margin else F.relu(self.margin + gap)
        return _mean(losses, positive.any(1) & negative.any(1))

    def _semi_hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        ordered, count = _ordered_negatives(distances, negative)
        beyond = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)  # (B, B)
        chosen = ordered.gather(1, torch.minimum(beyond, (count - 1).clamp_min(0)))
        losses = F.relu(self.margin + distances - chosen.masked_fill(count == 0, 0))
        return _mean(losses, positive & (count > 0))

    def _all(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        # For one anchor and positive the hinge is open for the nearest negatives, up to d(a, p) + margin: their number
        # and the sum of their distances, from a cumulative sum, give the sum of their losses without a third axis.
        ordered, count = _ordered_negatives(distances, negative)
        limits = distances + self.margin  # (B, B)
        active = torch.searchsorted(ordered.detach(), limits.detach().contiguous())  # (B, B) open hinges
        columns = torch.arange(ordered.shape[1], device=ordered.device)
        sums = F.pad(ordered.masked_fill(columns >= count, 0).cumsum(1), (1, 0))
        losses = active * limits - sums.gather(1, active)
        active = active.masked_fill(~positive, 0)
        return losses.masked_fill(~positive, 0).sum() / active.sum().clamp_min(1)

    def statistics(
        self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Whether it works: distances that both approach zero mean collapse; arguments as for `forward`.

        Returns:
            0-dimensional float32 tensors: "valid_triplets", how many (anchor, positive, negative) the batch holds; as
            means over valid anchors "hardest_positive" and "hardest_negative", distances, and "active_triplets", the
            share of hardest triplets whose hinge is open; "collapsed", 1 where both distances are next to nothing
            beside the embeddings' length (beside 1, for the cosine distance).
        """
        labels = check_labels(embeddings, labels, columns=1, meaning="class ids")
        positive, negative = _pairs(labels)
        texts = embeddings[0].detach()
        farthest, nearest = _hardest(self._distances(texts), positive, negative)
        valid = positive.any(1) & negative.any(1)
        hardest_positive, hardest_negative = _mean(farthest, valid), _mean(nearest, valid)
        length = 1.0 if self.distance == "cosine" else torch.linalg.vector_norm(texts.float(), dim=-1).mean()
        close = torch.maximum(hardest_positive, hardest_negative) <= _COLLAPSED * length
        return {
            "valid_triplets": (positive.sum(1).float() * negative.sum(1)).sum(),
            "hardest_positive": hardest_positive,
            "hardest_negative": hardest_negative,
            "active_triplets": _mean((self.margin + farthest - nearest > 0).float(), valid),
            "collapsed": (close & valid.any()).float(),
        }


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, B) masks of each anchor's positives, itself left out, and negatives."""
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _hardest(distances: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) distances of the farthest positive and the nearest negative; any distance where there is none."""
    if not len(distances):
        return distances.sum(1), distances.sum(1)
    farthest = distances.detach().masked_fill(~positive, -torch.inf).argmax(1, keepdim=True)
    nearest = distances.detach().masked_fill(~negative, torch.inf).argmin(1, keepdim=True)
    return distances.gather(1, farthest)[:, 0], distances.gather(1, nearest)[:, 0]


def _ordered_negatives(distances: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Each anchor's negatives by distance, (B, B) filled up with inf, and their number (B, 1)."""
    return distances.masked_fill(~negative, torch.inf).sort(1).values.contiguous(), negative.sum(1, keepdim=True)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp_min(1)
