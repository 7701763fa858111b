"""Ranking losses over scored pairs: a pair with a higher label should score higher.

Shapes: K texts per example, B examples, D dimensions.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cosent.losses.shapes import check_labels
from cosent.similarity import pairwise_angle, pairwise_cosine


class CoSENTLoss(nn.Module):
    """log(1 + sum over pairs i, j with label_i > label_j of exp(scale * (cos_j - cos_i))).

    Exact for any real labels, 0/1 or graded, with ties, in O(B log B) time and O(B) memory. A batch whose labels are
    all equal gives a zero that stays on the graph.

    Args:
        scale: factor on the cosines, the inverse of a temperature; must be above 0.

    Raises:
        ValueError: if the scale is not above 0.

    Example:
        >>> embeddings = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0]]])  # (K=2, B=2, D=2)
        >>> loss = CoSENTLoss(scale=2.0)(embeddings, torch.tensor([1.0, 0.0]))  # cosines 1 and 0
        >>> print(f"{loss:.4f}")  # log(1 + exp(2 * (0 - 1)))
        0.1269

    Reference: Huang et al., "CoSENT: Consistent Sentence Embedding via Similarity Ranking", 2024.
    """

    data_formats: ClassVar[tuple[str, ...]] = ("pairs",)
    score = staticmethod(pairwise_cosine)

    def __init__(self, scale: float = 20.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.scale = scale

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            embeddings: (2, B, D), the first and the second texts of B pairs.
            labels: (B,) scores; higher means more similar.
            text_ids: not used.

        Returns:
            Scalar, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: if a shape is wrong or labels are missing.
        """
        labels = check_labels(embeddings, labels, columns=2, meaning="scores")
        first, second = embeddings.unbind(0)  # copies once in the backward pass; indexing twice would copy four times
        return ranking_loss(self.scale * self.score(first, second), labels)

    def statistics(
        self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Count the `ordered_pairs` that a batch offers; the arguments are those of `forward`."""
        return ordered_pairs(check_labels(embeddings, labels, columns=2, meaning="scores"))


class AnglELoss(CoSENTLoss):
    """The ranking of `CoSENTLoss` with AnglE's angle score instead of the cosine.

    Arguments, results and errors are those of `CoSENTLoss`.

    Reference: Li and Li, "AoE: Angle-optimized Embeddings for Semantic Textual Similarity", 2024, equation 4.
    """

    score = staticmethod(pairwise_angle)


def ranking_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """log(1 + sum over i, j with label_i > label_j of exp(score_j - score_i)), without any (B, B) tensor.

    Once pairs are sorted by label, the inner sum over j for one i runs over a prefix, so one cumulative logsumexp gives
    it for every i; in the gradient, the sum over i for one j runs over a suffix. Equal labels share prefix and suffix,
    so they stay out of each other's sums. The cumulative sums are in float64: in float32 they stop growing near a
    million pairs.

    Args:
        scores: (B,) scores, already multiplied by the scale.
        labels: (B,) labels of any ordered type.

    Returns:
        Scalar of the scores' type; it can be differentiated once.
    """
    return _RankingLoss.apply(scores, labels)


class _RankingLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, labels: Tensor) -> Tensor:
        exact = torch.float32 if scores.device.type == "mps" else torch.float64  # MPS has no float64
        labels, order = torch.sort(labels.int() if labels.dtype == torch.bool else labels)
        s = scores.detach().to(exact)[order]  # (B,) by ascending label
        group_start = torch.searchsorted(labels, labels)  # (B,) first index with the same label
        group_end = torch.searchsorted(labels, labels, right=True)  # (B,) first index with a higher label
        nothing = s.new_full((1,), -torch.inf)
        # logsumexp of s_j over lower labels, and of -s_i over higher labels
        below = torch.cat([nothing, torch.logcumsumexp(s, 0)])[group_start]
        above = torch.cat([torch.logcumsumexp(-s.flip(0), 0).flip(0), nothing])[group_end]
        loss = torch.logaddexp(torch.logsumexp(below - s, 0), s.new_zeros(()))
        gradient = torch.empty_like(s)
        gradient[order] = torch.exp(above + s - loss) - torch.exp(below - s - loss)
        ctx.save_for_backward(gradient.to(scores.dtype))
        return loss.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None


def ordered_pairs(labels: Tensor) -> dict[str, Tensor]:
    """Count the comparisons that a ranking loss makes in a batch.

    Args:
        labels: (B,) labels of any ordered type.

    Returns:
        Two 0-dimensional float32 tensors: "ordered_pairs", the number of (i, j) with label_i > label_j, and
        "unordered_batches", 1 if there are none, so that the batch teaches nothing.
    """
    labels, _ = torch.sort(labels)
    count = torch.searchsorted(labels, labels).float().sum()
    return {"ordered_pairs": count, "unordered_batches": (count == 0).float()}
