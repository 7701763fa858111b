import math

import pytest
import torch
from torch.testing import assert_close

from cosent.similarity import cosine_matrix, euclidean_matrix, pairwise_angle, pairwise_cosine, pairwise_euclidean

EVERY = [pairwise_cosine, pairwise_angle, pairwise_euclidean, cosine_matrix, euclidean_matrix]


def test_cosine_of_hand_worked_pairs():
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 2.0], [6.0, 8.0], [-2.0, -2.0]])
    assert_close(pairwise_cosine(a, b), torch.tensor([0.0, 1.0, -1.0]))


def test_cosine_with_a_zero_row_is_zero_and_has_a_finite_gradient():
    a = torch.zeros(1, 4, requires_grad=True)
    cosine = pairwise_cosine(a, torch.ones(1, 4))
    cosine.sum().backward()
    assert cosine.item() == 0
    assert a.grad.isfinite().all()
    assert pairwise_cosine(torch.ones(1, 4), torch.zeros(1, 4)).item() == 0


def test_matrix_holds_the_pairwise_cosines():
    a, b = torch.randn(3, 5), torch.randn(4, 5)
    expected = torch.stack([pairwise_cosine(a, row.expand(3, 5)) for row in b], dim=1)
    assert_close(cosine_matrix(a, b), expected)


def test_distances_of_hand_worked_pairs():
    a, b = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [2.0, -2.0]])
    assert_close(pairwise_euclidean(a, b), torch.tensor([0.0, math.sqrt(37)]))
    assert_close(euclidean_matrix(a, b), torch.tensor([[0.0, math.sqrt(5)], [math.sqrt(20), math.sqrt(37)]]))


@pytest.mark.parametrize("function", [pairwise_euclidean, euclidean_matrix])
def test_a_distance_of_zero_has_no_gradient(function):
    a = torch.ones(2, 3, requires_grad=True)
    function(a, torch.ones(2, 3)).sum().backward()
    assert_close(a.grad, torch.zeros(2, 3))


def test_angle_of_hand_worked_complex_numbers():
    # 1 and i: 1 * conj(i) = -i, real + imaginary = -1; 1+i with itself: 2 over the product of lengths 2
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert_close(pairwise_angle(a, b), torch.tensor([1.0, 1.0]))
    # 1 at 45 degrees from 1+i: cos - sin of -45 degrees
    assert_close(pairwise_angle(b[1:], a[:1]), torch.tensor([math.sqrt(2)]))


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_before_anything_is_summed(function, dtype):
    a, b = torch.randn(6, 300).to(dtype), torch.randn(6, 300).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(a, b)
    assert result.dtype == torch.float32
    assert_close(result, function(a.float(), b.float()))


@pytest.mark.parametrize("function", [pairwise_cosine, pairwise_angle, pairwise_euclidean])
def test_shapes_that_would_broadcast_are_refused(function):
    with pytest.raises(ValueError, match=r"shape \(B, D\), got \(3, 4\) and \(1, 4\)"):
        function(torch.ones(3, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"shape \(B, D\), got \(4,\) and \(4,\)"):
        function(torch.ones(4), torch.ones(4))


@pytest.mark.parametrize("function", [cosine_matrix, euclidean_matrix])
@pytest.mark.parametrize(("a", "b"), [((3, 4), (3, 5)), ((4,), (3, 4)), ((3, 4), (4,)), ((2, 3, 4), (3, 4))], ids=str)
def test_what_are_no_matrices_of_one_width_are_refused(function, a, b):
    with pytest.raises(ValueError, match=r"shapes \(N, D\) and \(M, D\), got "):
        function(torch.ones(a), torch.ones(b))
