from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from cosent.data.samplers import ClassBatchSampler, DistinctTextBatchSampler, RankBatchSampler, RowBatchSampler
from cosent.errors import DataError

LABELS = {
    "even": [c for c in range(10) for _ in range(16)],
    "many small classes": [c for c in range(100) for _ in range(3)],
    "one large class": [0] * 500 + [c for c in range(1, 6) for _ in range(4)],
    "two classes": ["a"] * 7 + ["b"] * 2,
    "skewed": np.random.default_rng(0).zipf(1.5, 400).tolist(),
    "one row too many": [c for c in range(5) for _ in range(9)],
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize(("classes", "samples"), [(4, 8), (2, 2), (8, 3)])
def test_class_batches(name, classes, samples):
    labels = LABELS[name]
    sizes = Counter(labels)
    sampler = ClassBatchSampler(labels, classes_per_batch=classes, samples_per_class=samples, seed=1)
    expected_classes = min(classes, sum(size > 1 for size in sizes.values()))
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(set(batch)) == len(batch)  # a row is no positive of itself
            drawn = Counter(labels[row] for row in batch)
            assert len(drawn) == expected_classes
            assert all(count == min(samples, sizes[label]) for label, count in drawn.items())
        rows = {row for batch in batches for row in batch}
        assert rows == {row for row, label in enumerate(labels) if sizes[label] > 1}  # every row, every epoch
    assert sampler.num_singletons == sum(size == 1 for size in sizes.values())


def test_classes_that_help_out_take_turns():
    sampler = ClassBatchSampler(LABELS["one large class"], classes_per_batch=2, samples_per_class=4)
    drawn = Counter(LABELS["one large class"][row] for batch in sampler for row in batch)
    assert max(drawn[c] for c in range(1, 6)) - min(drawn[c] for c in range(1, 6)) <= 8


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: ClassBatchSampler(LABELS["even"], seed=seed),
        lambda seed: DistinctTextBatchSampler(np.arange(400).reshape(200, 2), batch_size=8, seed=seed),
    ],
)
def test_epochs_differ_and_can_be_repeated(make):
    def batches(seed, epoch):
        sampler = make(seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(0, 3) == batches(0, 3)
    assert batches(0, 3) != batches(0, 4)
    assert batches(0, 3) != batches(9, 3)


@pytest.mark.parametrize("labels", [[], [1, 1, 1], [1, 1, 2], [1, 2, 3]])
def test_too_few_classes_are_an_error_before_training(labels):
    with pytest.raises(DataError, match="at least two such classes"):
        ClassBatchSampler(labels)


@pytest.mark.parametrize("options", [{"classes_per_batch": 1}, {"samples_per_class": 1}])
def test_batches_without_negatives_or_positives_are_refused(options):
    with pytest.raises(ValueError, match="2 classes and 2 rows"):
        ClassBatchSampler(LABELS["even"], **options)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("texts", [5, 40, 1000])
def test_no_text_is_in_two_rows_of_a_batch_and_no_row_in_two_batches(texts, drop_last):
    ids = np.random.default_rng(0).integers(0, texts, (150, 2))
    sampler = DistinctTextBatchSampler(ids, batch_size=8, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        assert 0 < len(batch) <= 8
        seen = [text for row in batch for text in set(ids[row])]
        assert len(set(seen)) == len(seen)
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows)
    assert len(rows) + sampler.num_unplaced == 150
    if texts == 1000:
        assert sampler.num_unplaced <= (6 if drop_last else 0) + 1


def test_a_clashing_row_is_deferred_and_not_dropped():
    # half of the rows share a text, as often as there are batches
    ids = np.array([[0, 100 + i] for i in range(10)] + [[200 + i, 300 + i] for i in range(10)])
    sampler = DistinctTextBatchSampler(ids, batch_size=2)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 10
    assert sampler.num_unplaced == 0


def test_rows_that_cannot_be_placed_are_counted_and_change():
    ids = np.array([[0, i] for i in range(1, 11)])  # all share a text: one a batch
    sampler = DistinctTextBatchSampler(ids, batch_size=5)
    placed = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        placed |= {row for batch in sampler for row in batch}
        assert sampler.num_unplaced == 8
    assert placed == set(range(10))


def test_it_places_many_rows_of_one_text_without_looking_again_at_each():
    ids = np.stack([np.zeros(200_000, dtype=np.int64), np.arange(1, 200_001)], axis=1)
    sampler = DistinctTextBatchSampler(ids, batch_size=2)  # quadratic time would not come back
    assert sum(map(len, sampler)) == 100_000


def test_no_step_is_an_error_before_training():
    with pytest.raises(DataError, match="no step"):
        DistinctTextBatchSampler(np.zeros((3, 2), dtype=np.int64), batch_size=4, drop_last=True)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("num_rows", [60, 61, 67])
@pytest.mark.parametrize("kind", ["random", "by length"])
def test_ranks_share_each_batch_out_evenly_and_in_order(num_rows, num_ranks, kind):
    def order():
        lengths = [5 + row % 7 for row in range(num_rows)]
        return RandomSampler(range(num_rows)) if kind == "random" else LengthGroupedSampler(12, lengths=lengths)

    def batches() -> RowBatchSampler:
        torch.seed()  # the order must not depend on what a rank has drawn
        return RowBatchSampler(order(), batch_size=12, seed=3)

    ranks = [RankBatchSampler(batches(), rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    orders = []
    for epoch in (0, 1):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        whole = batches()
        whole.set_epoch(epoch)
        shares = list(zip(*ranks, strict=True))
        assert len(shares) == len(ranks[0]) == len(whole)
        for share, batch in zip(shares, whole, strict=True):
            assert sum(share, []) == batch
            sizes = [len(rows) for rows in share]
            assert max(sizes) - min(sizes) <= 1
        orders.append([row for share in shares for rows in share for row in rows])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(num_rows))
    assert orders[0] != orders[1]


def test_several_ranks_have_the_order_of_one_process():
    for epoch in (0, 2):
        sampler = RowBatchSampler(RandomSampler(range(50)), batch_size=8, seed=11)
        sampler.set_epoch(epoch)
        theirs = SeedableRandomSampler(range(50), data_seed=11)  # what accelerate puts in the place of torch's
        theirs.set_epoch(epoch)
        assert list(sampler) == list(BatchSampler(theirs, 8, drop_last=False))
