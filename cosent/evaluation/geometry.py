"""Geometry of embeddings on the unit sphere: matching texts should be close, and all texts spread out.

Shapes: P pairs, n texts, D dimensions.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

GEOMETRY = ("alignment", "uniformity")
EFFECTIVE_RANK = "effective_rank"

_TEXTS_COMPARED = 4_096


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance between the unit vectors of matching texts: 0 is best, 2 is chance level.

    Args:
        first: (P, D) embeddings.
        second: (P, D) embeddings of the texts that match them.

    Returns:
        A number from 0 to 4; nan without pairs.

    Reference: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
        the Hypersphere", 2020, section 4.1, with alpha = 2.
    """
    if not len(first):
        return math.nan
    return (F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).square().sum(-1).mean().item()


def class_alignment(embeddings: Tensor, labels: Tensor) -> float:
    """`alignment` over all pairs of texts of one class, from the classes' sums.

    Args:
        embeddings: (n, D) embeddings.
        labels: (n,) class ids.

    Returns:
        A number from 0 to 4; nan if no class has two texts.
    """
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    unit = F.normalize(embeddings.double(), dim=-1)
    sums = torch.zeros(len(sizes), unit.shape[1], dtype=unit.dtype).index_add_(0, classes, unit)
    pairs = (sizes * (sizes - 1)).sum()  # ordered
    # sum of |x - y|^2 over ordered pairs of a class = 2 * size * sum of |x|^2 - 2 * |sum of x|^2
    squares = torch.zeros(len(sizes), dtype=unit.dtype).index_add_(0, classes, unit.square().sum(-1))
    distances = 2 * (sizes * squares - sums.square().sum(-1)).sum()
    return (distances / pairs).item() if pairs else math.nan


def uniformity(embeddings: Tensor) -> float:
    """log of the mean over pairs of different texts of exp(-2 * squared distance of their unit vectors).

    Lower values mean a more even spread; 0 is a collapse to one point. More than 4,096 texts are subsampled to 4,096 at
    even steps.

    Args:
        embeddings: (n, D) embeddings of distinct texts.

    Returns:
        A number from -8 to 0; nan for fewer than two texts.

    Reference: Wang and Isola, 2020, section 4.1, with t = 2.
    """
    if len(embeddings) < 2:
        return math.nan
    unit = F.normalize(_some(embeddings), dim=-1)
    squares = (2 - 2 * (unit @ unit.T)).clamp_min(0)  # (n, n)
    itself = torch.eye(len(unit), dtype=torch.bool)
    return torch.exp(-2 * squares).masked_fill_(itself, 0).sum().div(len(unit) * (len(unit) - 1)).log().item()


def effective_rank(embeddings: Tensor) -> float:
    """Effective number of dimensions of unit vectors: exp of the entropy of their normalised singular values.

    1 is a collapse to one direction; D means evenly filled dimensions. More than 4,096 texts are subsampled to 4,096 at
    even steps.

    Args:
        embeddings: (n, D) embeddings of distinct texts.

    Returns:
        A number from 1 to min(n, D); nan without texts.

    Reference: Roy and Vetterli, "The Effective Rank", 2007, equation 3; Garrido et al., "RankMe", 2023.
    """
    if not len(embeddings):
        return math.nan
    unit = F.normalize(_some(embeddings).double(), dim=-1)
    gram = unit.T @ unit if len(unit) >= unit.shape[1] else unit @ unit.T  # the smaller of the two
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def _some(embeddings: Tensor) -> Tensor:
    """Select at most 4,096 embeddings, at even steps."""
    return embeddings[torch.linspace(0, len(embeddings) - 1, min(len(embeddings), _TEXTS_COMPARED)).round().long()]
