"""Triplet losses over classes: a text should be closer to its own class than to any other.

Shapes: B examples, D dimensions.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosent.losses.shapes import check_labels, row_blocks
from cosent.similarity import cosine_matrix, euclidean_matrix, pairwise_cosine, pairwise_euclidean

Distance = Literal["euclidean", "cosine"]
Mining = Literal["hard", "semi_hard", "all"]

_COLLAPSED = 0.01  # largest distance in a collapsed batch, as a share of the embeddings' length


class BatchHardTripletLoss(nn.Module):
    """Mean over triplets of max(0, margin + d(anchor, positive) - d(anchor, negative)), mined within the batch.

    "hard" uses the farthest positive and the nearest negative of each anchor. "semi_hard" uses, for each anchor and
    positive, the nearest negative that is farther away than the positive, or the farthest negative if there is none.
    "all" uses every triplet with a loss above 0. Gradients flow only through the distances of these triplets. "hard"
    needs O(B) memory, because it processes anchors in blocks; the others need O(B^2). Anchors without a positive or a
    negative do not count in the mean; a batch without a valid anchor gives a zero that stays on the graph.

    Args:
        margin: how much farther a negative should be than a positive; not used with the soft margin.
        distance: "euclidean", or "cosine" for 1 - cosine.
        soft_margin: use log(1 + exp(d(anchor, positive) - d(anchor, negative))) instead of the hinge; only with "hard".
        mining: triplets of the batch to use: the "hard" or the "semi_hard" ones, or "all" with a loss above 0.

    Raises:
        ValueError: if an option is unknown, the margin is negative, or the soft margin is used without "hard" mining.

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
        self._mined: _Mined | None = None

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            embeddings: (1, B, D).
            labels: (B,) class ids.
            text_ids: not used: equal texts of one class are valid, though easy, positives.

        Returns:
            Scalar, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: if a shape is wrong or labels are missing.
        """
        labels = check_labels(embeddings, labels, columns=1, meaning="class ids")
        texts = embeddings[0]
        if self.mining == "all":
            return self._all(self._distance_matrix(texts, texts), *_pairs(labels))
        if self.mining == "semi_hard":
            return self._semi_hard(self._distance_matrix(texts, texts), *_pairs(labels))
        return self._hard(texts, labels)

    def _distance_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - cosine_matrix(a, b) if self.distance == "cosine" else euclidean_matrix(a, b)

    def _pairwise_distance(self, a: Tensor, b: Tensor) -> Tensor:
        return 1 - pairwise_cosine(a, b) if self.distance == "cosine" else pairwise_euclidean(a, b)

    def _hard(self, texts: Tensor, labels: Tensor) -> Tensor:
        farthest, nearest = self._hardest(texts, labels)
        gap = farthest - nearest
        losses = F.softplus(gap) if self.soft_margin else F.relu(self.margin + gap)
        return _mean(losses, _is_valid(_class_sizes(labels)))

    def _hardest(self, texts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (B,) distances of the farthest positive and the nearest negative; arbitrary if there is none."""
        farthest, nearest = self._mine(texts.detach(), labels)
        return self._pairwise_distance(texts, texts[farthest]), self._pairwise_distance(texts, texts[nearest])

    def _mine(self, texts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Find (B,) indices of both in the batch; the statistics reuse what the loss has mined in the same batch."""
        mined, self._mined = self._mined, None
        if mined is not None and mined.is_of(texts, labels):
            return mined.farthest, mined.nearest
        farthest, nearest = labels.new_empty(2, len(texts), dtype=torch.long)
        for block in row_blocks(len(texts), len(texts)):
            distances = self._distance_matrix(texts[block], texts)  # (a, B)
            positive, negative = _pairs(labels, block)
            farthest[block] = distances.masked_fill(~positive, -torch.inf).argmax(1)
            nearest[block] = distances.masked_fill_(~negative, torch.inf).argmin(1)
        if not texts.is_inference():  # torch does not count changes of inference tensors
            self._mined = _Mined(texts, labels, (texts._version, labels._version), farthest, nearest)
        return farthest, nearest

    def _semi_hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        ordered, count = _ordered_negatives(distances, negative)
        beyond = torch.searchsorted(ordered.detach(), distances.detach().contiguous(), right=True)  # (B, B)
        chosen = ordered.gather(1, torch.minimum(beyond, (count - 1).clamp_min(0)))
        losses = F.relu(self.margin + distances - chosen.masked_fill(count == 0, 0))
        return _mean(losses, positive & (count > 0))

    def _all(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        # For one anchor and positive, the hinge is open for the nearest negatives, up to d(a, p) + margin. Their number
        # and the cumulative sum of their distances give the sum of their losses without a third axis.
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
        """Measure the hardest triplets: if both distances approach zero, the embeddings collapse.

        Returns:
            0-dimensional float32 tensors: "valid_triplets", the number of (anchor, positive, negative) in the batch.
            Means over valid anchors: the distances "hardest_positive" and "hardest_negative", and "active_triplets",
            the share of hardest triplets whose hinge is open. "collapsed": 1 if both distances are negligible compared
            with the embeddings' length (with 1 for the cosine distance).
        """
        labels = check_labels(embeddings, labels, columns=1, meaning="class ids")
        texts = embeddings[0].detach()
        farthest, nearest = self._hardest(texts, labels)
        sizes = _class_sizes(labels)
        valid = _is_valid(sizes)
        hardest_positive, hardest_negative = _mean(farthest, valid), _mean(nearest, valid)
        length = 1.0 if self.distance == "cosine" else torch.linalg.vector_norm(texts.float(), dim=-1).mean()
        close = torch.maximum(hardest_positive, hardest_negative) <= _COLLAPSED * length
        return {
            "valid_triplets": ((sizes - 1).float() * (len(labels) - sizes)).sum(),
            "hardest_positive": hardest_positive,
            "hardest_negative": hardest_negative,
            "active_triplets": _mean((self.margin + farthest - nearest > 0).float(), valid),
            "collapsed": (close & valid.any()).float(),
        }


class _Mined(NamedTuple):
    """The hardest triplets of a batch."""

    texts: Tensor  # (B, D), kept so that another batch cannot get the same memory
    labels: Tensor  # (B,)
    versions: tuple[int, int]  # torch's counters of in-place changes to both
    farthest: Tensor  # (B,)
    nearest: Tensor  # (B,)

    def is_of(self, texts: Tensor, labels: Tensor) -> bool:
        """Tell whether exactly these tensors were mined, without reading their values."""
        if texts.is_inference() or self.texts.shape != texts.shape:
            return False
        same = self.texts.data_ptr() == texts.data_ptr() and self.labels.data_ptr() == labels.data_ptr()
        return same and self.versions == (texts._version, labels._version)


def _pairs(labels: Tensor, anchors: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Return (a, B) masks of the positives of the a anchors, without themselves, and of their negatives."""
    same = labels[anchors, None] == labels
    rows = torch.arange(len(labels), device=labels.device)
    return same & (rows[anchors, None] != rows), ~same


def _class_sizes(labels: Tensor) -> Tensor:
    """Count (B,) the examples of each example's class in the batch, itself included."""
    ordered = labels.sort().values
    return torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)


def _is_valid(sizes: Tensor) -> Tensor:
    """Tell (B,) which anchors have both a positive and a negative, from the sizes of their classes."""
    return (sizes > 1) & (sizes < len(sizes))


def _ordered_negatives(distances: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each anchor's distances to its negatives, (B, B) padded with inf, and count them, (B, 1)."""
    return distances.masked_fill(~negative, torch.inf).sort(1).values.contiguous(), negative.sum(1, keepdim=True)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp_min(1)
