import random

import pytest
import torch

from cosent.kernels.filling import fill, size_for


def batches(number=300):
    """Tokens, texts and the longest text of random batches, the smallest ones among them."""
    draw = random.Random(0)
    yield from [(1, 1, 1), (5, 5, 1), (8, 1, 8), (500, 1, 500), (64, 64, 1)]
    for _ in range(number):
        longest = draw.choice([1, 2, 3, 10, 50, 128, 512])
        lengths = [draw.randint(1, longest) for _ in range(draw.choice([1, 2, 3, 10, 64, 128, 700]))]
        yield sum(lengths), len(lengths), max(lengths)


def test_every_batch_fits_its_size_with_texts_of_padding_no_longer_than_its_own():
    for num_tokens, num_texts, longest in batches():
        size = size_for(num_tokens, num_texts, longest)
        fillers, spare = size.num_texts - num_texts, size.num_tokens - num_tokens
        assert 1 <= fillers <= spare <= fillers * longest
        assert size.max_length >= longest


@pytest.mark.parametrize(
    "average, num_texts, longest", [(14, 128, 60), (10, 128, 20), (30, 64, 128), (10, 2000, 40), (100, 75, 128)]
)
def test_most_of_a_batch_is_real_and_sizes_are_few(average, num_texts, longest):
    draw = random.Random(0)
    shares, sizes = [], set()
    for _ in range(500):
        lengths = [min(longest, max(1, round(draw.gauss(average, average * 0.4)))) for _ in range(num_texts)]
        size = size_for(sum(lengths), num_texts, max(lengths))
        shares.append(sum(lengths) / size.num_tokens)
        sizes.add(size)
    assert min(shares) > 0.9
    assert sum(shares) / len(shares) > 0.94
    assert len(sizes) <= 10


def test_a_batch_is_filled_up_by_texts_about_as_long_as_each_other():
    tokens, counts = torch.full((20,), 9), torch.full((6,), 9)
    fill((tokens, counts), torch.tensor([5, 6, 7, 8]), torch.tensor([3, 1]))
    assert tokens.tolist() == [5, 6, 7, 8] + [0] * 16
    assert counts.tolist() == [3, 1, 4, 4, 4, 4]
    fill((tokens, counts), torch.tensor([5, 6]), torch.tensor([1, 1]))
    assert tokens.tolist() == [5, 6] + [0] * 18
    assert counts.tolist() == [1, 1, 5, 5, 4, 4]
