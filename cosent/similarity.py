"""Similarities between embeddings, in float32 or better.

Shapes: B pairs, N and M texts, D dimensions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine of each row of `a` with the same row of `b`; 0 if a row is all zeros.

    Args:
        a: (B, D) embeddings of any floating type.
        b: (B, D) embeddings.

    Returns:
        (B,) cosines in [-1, 1], float32 or float64.

    Raises:
        ValueError: if the two shapes differ or are not (B, D).
    """
    a, b = _pair(a, b)
    with torch.autocast(a.device.type, enabled=False):  # autocast would multiply in half precision
        return torch.linalg.vecdot(a, b) / _norms(a, b)


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine of every row of `a` with every row of `b`, as one matrix product.

    Args:
        a: (N, D) embeddings of any floating type.
        b: (M, D) embeddings.

    Returns:
        (N, M) cosines in [-1, 1], float32 or float64.

    Raises:
        ValueError: if the two are not matrices of equal width.
    """
    _check_matrices(a, b)
    with torch.autocast(a.device.type, enabled=False):  # as above
        return unit_rows(a) @ unit_rows(b).T


def unit_rows(a: Tensor) -> Tensor:
    """Scale rows to length 1, so that their products are cosines; rows of zeros stay zero.

    Args:
        a: (N, D) embeddings of any floating type.

    Returns:
        (N, D), float32 or float64.
    """
    return F.normalize(_at_least_float32(a), dim=-1)


def balanced(a: Tensor) -> Tensor:
    """Scale each row by a power of two, so that its length and that length's square are in float32's range.

    Cosines stay the same to the last bit where they could be computed before.

    Args:
        a: (N, D) embeddings, float32 or float64.
    """
    if not a.numel():
        return a
    _, exponents = torch.frexp(a.abs().amax(-1, keepdim=True).cpu())  # which not all devices can
    return a * torch.exp2(-exponents.clamp(-126, 126).double()).to(a)  # 2**127 and above would overflow


def euclidean_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Euclidean distance of every row of `a` from every row of `b`, by one matrix product.

    The gradient at a distance of 0 is 0.

    Args:
        a: (N, D) embeddings of any floating type.
        b: (M, D) embeddings.

    Returns:
        (N, M) distances, float32 or float64.

    Raises:
        ValueError: if the two are not matrices of equal width.
    """
    _check_matrices(a, b)
    with torch.autocast(a.device.type, enabled=False):  # as above
        a, b = _at_least_float32(a), _at_least_float32(b)
        squares = (a.square().sum(-1)[:, None] - 2 * (a @ b.T) + b.square().sum(-1)).clamp_min(0)
        apart = squares > 0
        return torch.where(apart, squares.masked_fill(~apart, 1).sqrt(), 0)


def pairwise_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Euclidean distance of each row of `a` from the same row of `b`.

    The gradient at a distance of 0 is 0.

    Args:
        a: (B, D) embeddings of any floating type.
        b: (B, D) embeddings.

    Returns:
        (B,) distances, float32 or float64.

    Raises:
        ValueError: if the two shapes differ or are not (B, D).
    """
    a, b = _pair(a, b)
    return torch.linalg.vector_norm(a - b, dim=-1)


def pairwise_angle(a: Tensor, b: Tensor) -> Tensor:
    """Compute AnglE's score of each row of `a` with the same row of `b`.

    The first half of an embedding holds the real parts of complex numbers, the second half their imaginary parts
    (an odd D is padded with a zero). With both embeddings normalised, the score is |Re + Im| summed over the
    complex products a * conj(b), that is |cos(a, b) + sin(a, b)|; higher means more similar. The paper's equation 3
    writes the difference of two such scores in the opposite order to its published code; this follows the code.

    Args:
        a: (B, D) embeddings of any floating type.
        b: (B, D) embeddings.

    Returns:
        (B,) scores in [0, sqrt(2)], float32 or float64.

    Raises:
        ValueError: if the two shapes differ or are not (B, D).

    Reference: Li and Li, "AoE: Angle-optimized Embeddings for Semantic Textual Similarity", 2024, section 3.
    """
    a, b = _pair(a, b)
    odd = a.shape[1] % 2
    a, b = F.pad(a, (0, odd)), F.pad(b, (0, odd))
    a_real, a_imag = a.chunk(2, dim=-1)
    b_real, b_imag = b.chunk(2, dim=-1)
    with torch.autocast(a.device.type, enabled=False):  # as above
        real = torch.linalg.vecdot(a, b)
        imag = torch.linalg.vecdot(a_imag, b_real) - torch.linalg.vecdot(a_real, b_imag)
        return ((real + imag) / _norms(a, b)).abs()


def _norms(a: Tensor, b: Tensor) -> Tensor:
    """Compute (B,) products of the rows' lengths, kept above 0; normalising first would copy both sides."""
    lengths = torch.linalg.vector_norm(a, dim=-1).clamp_min(1e-12), torch.linalg.vector_norm(b, dim=-1).clamp_min(1e-12)
    return lengths[0] * lengths[1]


def _check_matrices(a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"embeddings must have shapes (N, D) and (M, D), got {tuple(a.shape)} and {tuple(b.shape)}")


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"embeddings must both have shape (B, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    return _at_least_float32(a), _at_least_float32(b)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
