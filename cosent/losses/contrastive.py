"""Contrastive losses: a text should be closer to its positive than to every other text in the batch.

Shapes: K texts per example, B examples, N = K*B texts, D dimensions, A anchors, M candidates.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cosent.batch import NO_TEXT
from cosent.losses.shapes import row_blocks
from cosent.similarity import pairwise_cosine, unit_rows

Negatives = Literal["targets", "all"]

_SAME = 1e-6  # a cosine this close to 1 differs from it only by rounding


class _Ids(NamedTuple):
    """The ids of anchors, positives and candidates, and the places of positives and anchors among the candidates."""

    anchors: Tensor  # (A,) text ids
    positives: Tensor  # (A,) text ids
    candidates: Tensor  # (M,) text ids
    targets: Tensor  # (A,) index of each anchor's positive among the candidates
    itself: Tensor | None  # (A,) index of the anchor itself; None: not among the candidates

    def left_out(self, block: slice) -> Tensor:
        """Mask the candidates that the a anchors of a block are not compared with, (a, M)."""
        targets = self.targets[block]
        left_out = self.candidates == self.anchors[block, None]
        left_out |= self.candidates == self.positives[block, None]
        left_out |= self.candidates == NO_TEXT
        left_out.scatter_(1, targets[:, None], False)  # unlike indexing, this does not wait for the device
        if self.itself is not None:
            left_out.scatter_(1, self.itself[block][:, None], True)
        return left_out


class InfoNCELoss(nn.Module):
    """Mean over anchors of -log(exp(s * cos(a, p)) / sum over candidates c of exp(s * cos(a, c))).

    With "targets", the anchors are the first texts and the candidates are all positives and hard negatives of the batch
    (the form of the SimCSE paper). With "all" (NT-Xent), first and second texts are anchors and the candidates are all
    other texts of the batch. Other candidates with the text id of the anchor or its positive are not negatives and are
    left out of the sum. If texts that are known to match share an id (a group id), no text is a negative of its own
    group. Empty places, with the id `NO_TEXT`, are never candidates.

    Args:
        scale: factor on the cosines, s above, the inverse of a temperature; must be above 0.
        negatives: "targets" compares each anchor with all positives and hard negatives, "all" each text with all
            others.
        symmetric: with "targets", also compare each positive with all first texts, and average both directions.

    Raises:
        ValueError: if the scale is not above 0, `negatives` is unknown, or `symmetric` is set with "all", which already
            is symmetric.

    Reference: van den Oord, Li and Vinyals, 2018, equation 4; Gao, Yao and Chen, "SimCSE", 2021, equations 1 and 5;
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020, equation 1 ("all").
    """

    data_formats: ClassVar[tuple[str, ...]] = ("sentences", "triplets")

    def __init__(self, scale: float = 20.0, negatives: Negatives = "targets", symmetric: bool = False):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if negatives not in ("targets", "all"):
            raise ValueError(f"negatives must be 'targets' or 'all', got {negatives!r}")
        if symmetric and negatives == "all":
            raise ValueError("negatives='all' goes both ways already; symmetric is for 'targets'")
        self.scale = scale
        self.negatives = negatives
        self.symmetric = symmetric

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None) -> Tensor:
        """Compute the loss of one batch.

        Args:
            embeddings: (K, B, D), K >= 2: anchors, positives, then hard negatives. For unsupervised SimCSE, K = 2: each
                sentence is embedded twice, with dropout.
            labels: not used.
            text_ids: (N,) ids that are equal for equal texts or texts of one group; None: all texts differ.

        Returns:
            Scalar, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: if a shape is wrong.
        """
        ids = _check(embeddings, text_ids)
        if self.negatives == "all":
            return self._direction(*_all_to_all(embeddings, ids))
        loss = self._direction(*_to_targets(embeddings, ids))
        if not self.symmetric:
            return loss
        backward = embeddings[:2].flip(0), ids[:2].flip(0)  # compares positives with first texts
        return (loss + self._direction(*_to_targets(*backward))) / 2

    def _direction(self, anchors: Tensor, candidates: Tensor, ids: _Ids) -> Tensor:
        with torch.autocast(anchors.device.type, enabled=False):  # autocast would multiply in half precision
            return _Contrast.apply(self.scale * unit_rows(anchors), unit_rows(candidates), ids)

    def statistics(
        self, embeddings: Tensor, labels: Tensor | None = None, text_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Count the negatives of an anchor; the arguments are those of `forward`.

        Returns:
            0-dimensional float32 tensors. Means over anchors: "negatives", the candidates other than the positive, and
            "masked_negatives", those left out because they share an id with the anchor or its positive. Also
            "identical_views", 1 if every positive has its anchor's id and embedding but other texts do not, as in
            SimCSE without dropout.
        """
        pick = _all_to_all if self.negatives == "all" else _to_targets
        ids = _check(embeddings, text_ids)
        _, candidates, compared = pick(embeddings, ids)
        absent = (ids == NO_TEXT).sum()
        itself = 1 if self.negatives == "all" else 0
        masked = _count_masked(compared).mean() - 1 - itself
        anchors, positives = embeddings[:2]
        equal = (ids[0] == ids[1]).all() & (pairwise_cosine(anchors, positives) > 1 - _SAME).all()
        collapsed = (pairwise_cosine(anchors, anchors.roll(1, 0)) > 1 - _SAME).all()
        return {
            "negatives": len(candidates) - 1 - itself - absent - masked,
            "masked_negatives": masked,
            "identical_views": (equal & ~collapsed).float(),
        }


class _Contrast(torch.autograd.Function):
    """Mean over anchors of logsumexp(scores of candidates) - score of the target, computed block by block.

    A block of anchors computes its scores and their gradient, the softmax minus the target, in one go, so that neither
    is ever in memory for all anchors.
    """

    @staticmethod
    def forward(ctx, anchors: Tensor, candidates: Tensor, ids: _Ids) -> Tensor:
        loss = anchors.new_zeros(())
        gradient, candidates_gradient = torch.empty_like(anchors), torch.zeros_like(candidates)
        for block in row_blocks(len(anchors), len(candidates)):
            some = anchors[block]  # (a, D)
            rows = torch.arange(len(some), device=anchors.device)
            targets = ids.targets[block]
            scores = (some @ candidates.T).masked_fill_(ids.left_out(block), -torch.inf)  # (a, M)
            normalizers = scores.logsumexp(1)
            loss += (normalizers - scores[rows, targets]).sum()
            weights = scores.sub_(normalizers[:, None]).exp_()
            weights[rows, targets] -= 1
            gradient[block] = weights @ candidates
            candidates_gradient.addmm_(weights.T, some)
        ctx.save_for_backward(gradient, candidates_gradient)
        ctx.num_anchors = max(len(anchors), 1)
        return loss / ctx.num_anchors

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient, candidates_gradient = ctx.saved_tensors
        share = grad / ctx.num_anchors
        return share * gradient, share * candidates_gradient, None


def _count_masked(ids: _Ids) -> Tensor:
    """Count the candidates with the id of an anchor or its positive, the positive included; (A,) float32."""
    ordered = ids.candidates.sort().values

    def count(wanted: Tensor) -> Tensor:
        ends = (torch.searchsorted(ordered, wanted, right=right) for right in (True, False))
        return (next(ends) - next(ends)).float()

    return count(ids.positives) + count(ids.anchors).masked_fill(ids.anchors == ids.positives, 0)


def _to_targets(embeddings: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, _Ids]:
    """Compare first texts with all others: anchors (B, D), candidates (M, D), M = (K-1)*B."""
    targets = torch.arange(ids.shape[1], device=ids.device)
    return embeddings[0], embeddings[1:].flatten(0, 1), _Ids(ids[0], ids[1], ids[1:].reshape(-1), targets, None)


def _all_to_all(embeddings: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, _Ids]:
    """Compare first and second texts with all other texts: anchors (2B, D), candidates (N, D)."""
    itself = torch.arange(2 * ids.shape[1], device=ids.device)
    targets = itself.roll(ids.shape[1])  # the target of a first text is its second text, and vice versa
    flat = ids.reshape(-1)  # (N,)
    compared = _Ids(flat[itself], flat[targets], flat, targets, itself)
    return embeddings[:2].flatten(0, 1), embeddings.flatten(0, 1), compared


def _check(embeddings: Tensor, text_ids: Tensor | None) -> Tensor:
    """Check the shapes and return the text ids as (K, B); distinct ids if there are none."""
    if embeddings.ndim != 3 or embeddings.shape[0] < 2:
        fix = "; embed each sentence twice for unsupervised SimCSE" if embeddings.shape[0] == 1 else ""
        raise ValueError(f"embeddings must have shape (K >= 2, B, D), got {tuple(embeddings.shape)}{fix}")
    shape = embeddings.shape[:2]
    if text_ids is None:
        return torch.arange(shape.numel(), device=embeddings.device).view(shape)
    if text_ids.shape != (shape.numel(),):
        raise ValueError(f"text_ids must have shape ({shape.numel()},), got {tuple(text_ids.shape)}")
    return text_ids.view(shape)
