"""Batch samplers: choose the rows of each batch.

Each sampler yields lists of row indices, in a new order every epoch, from a generator seeded by seed + epoch. Its
length is known in advance, and an epoch always gives the same batches, so that a resumed run can skip to its middle.

Shapes: n rows; P classes with S rows each in a batch.
"""

import heapq
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Sampler

from cosent.errors import DataError

logger = logging.getLogger(__name__)


class RowBatchSampler:
    """Batches of consecutive rows in the order of a torch sampler; a random order changes every epoch.

    Args:
        order: yields row indices; has a length, and a `generator` if it is random.
        batch_size: maximum number of rows in a batch.
        seed: seed of the order.
        drop_last: whether to drop a last batch that is not full.
    """

    def __init__(self, order: Sampler[int], *, batch_size: int, seed: int = 0, drop_last: bool = False):
        self.order = order
        self.rows_per_batch = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(BatchSampler(self.order, self.rows_per_batch, self.drop_last))

    def __iter__(self) -> Iterator[list[int]]:
        if hasattr(self.order, "generator"):
            # as in accelerate's SeedableRandomSampler, so that the order does not depend on the number of processes
            self.order.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from BatchSampler(self.order, self.rows_per_batch, self.drop_last)


class ClassBatchSampler:
    """P x S batches: several classes, and several rows of each.

    An epoch draws every row of each class with two rows or more. The rows of a class are shuffled and cut into groups
    of S; a short last group is filled up with other rows of the class, and a class with fewer than S rows is one group.
    A batch takes one group from each of the P classes with the most groups left, which gives the smallest possible
    number of batches. If fewer than P classes have groups left, the classes drawn least often contribute random rows.
    Classes with a single row have no positive and are left out: `num_singletons` counts them.

    Args:
        labels: (n,) the class of each row.
        classes_per_batch: P, at least 2; all classes if there are fewer.
        samples_per_class: S, at least 2.
        seed: seed of the order.

    Raises:
        DataError: if fewer than two classes have two rows or more.
        ValueError: if P or S is below 2.

    Reference: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2.
    """

    def __init__(
        self, labels: Iterable[Hashable], *, classes_per_batch: int = 4, samples_per_class: int = 8, seed: int = 0
    ):
        if classes_per_batch < 2 or samples_per_class < 2:
            raise ValueError(
                f"a batch needs 2 classes and 2 rows of each at least, got {classes_per_batch} and {samples_per_class}"
            )
        rows: dict[Hashable, list[int]] = defaultdict(list)
        for row, label in enumerate(labels):
            rows[label].append(row)
        self.num_singletons = sum(len(group) == 1 for group in rows.values())
        self._rows = [np.array(group) for group in rows.values() if len(group) > 1]
        if len(self._rows) < 2:
            raise DataError(
                f"{len(self._rows)} of {len(rows)} classes have two rows or more; batches need at least two such "
                "classes. Are the columns of the text and the class the right way round?"
            )
        self.classes_per_batch = min(classes_per_batch, len(self._rows))
        self.samples_per_class = samples_per_class
        self.rows_per_batch = self.classes_per_batch * samples_per_class
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        groups = [-(-len(rows) // self.samples_per_class) for rows in self._rows]
        return max(max(groups), -(-sum(groups) // self.classes_per_batch))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(self.seed + self.epoch)
        groups = [self._deal(rows, rng) for rows in self._rows]
        drawn = np.zeros(len(groups))
        batches = []
        # classes by number of groups left, most first; the second number breaks ties at random
        heap = [(-len(left), rng.random(), c) for c, left in enumerate(groups)]
        heapq.heapify(heap)
        while heap:
            chosen = [heapq.heappop(heap)[2] for _ in range(min(self.classes_per_batch, len(heap)))]
            batch = [groups[c].pop() for c in chosen]
            for c in chosen:
                if groups[c]:
                    heapq.heappush(heap, (-len(groups[c]), rng.random(), c))
            helpers = self._least_drawn(drawn, chosen, rng)
            batch += [self._some(self._rows[c], self.samples_per_class, rng) for c in helpers]
            drawn[[*chosen, *helpers]] += 1
            batches.append(np.concatenate(batch).tolist())
        yield from (batches[i] for i in rng.permutation(len(batches)))

    def _deal(self, rows: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Cut the rows of a class into groups of S, or one group if there are fewer."""
        shuffled = rng.permutation(rows)
        groups = [shuffled[i : i + self.samples_per_class] for i in range(0, len(rows), self.samples_per_class)]
        lacking = min(self.samples_per_class, len(rows)) - len(groups[-1])
        if lacking:
            others = shuffled[: len(rows) - len(groups[-1])]
            groups[-1] = np.concatenate([groups[-1], self._some(others, lacking, rng)])
        return groups

    def _least_drawn(self, drawn: NDArray, chosen: list[int], rng: np.random.Generator) -> list[int]:
        lacking = self.classes_per_batch - len(chosen)
        if not lacking:
            return []
        priority = drawn + rng.random(len(drawn))
        priority[chosen] = np.inf
        return np.argpartition(priority, lacking - 1)[:lacking].tolist()

    @staticmethod
    def _some(rows: NDArray[np.int64], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.choice(rows, min(number, len(rows)), replace=False)


class DistinctTextBatchSampler:
    """Batches in which no text occurs in two rows, so that no row's positive is another row's negative.

    Rows are placed in one pass, in random order, each in the first batch that has room and none of its texts. A row for
    which there is no such batch is left out of the epoch. This concerns texts that occur in more rows than there are
    batches, and perhaps one more row at the end; other rows are left out in each epoch. `num_unplaced` counts them.

    Args:
        text_ids: n arrays (K,) of ids that are equal for equal texts.
        batch_size: maximum number of rows in a batch.
        seed: seed of the order.
        drop_last: whether to make only as many batches as the rows can fill; clashing texts may still leave some short.

    Raises:
        DataError: if `drop_last` is set and the rows do not fill one batch.
    """

    def __init__(
        self, text_ids: Sequence[NDArray[np.int64]], *, batch_size: int, seed: int = 0, drop_last: bool = False
    ):
        self.text_ids = text_ids
        self.rows_per_batch = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = 0
        self.num_unplaced = 0
        if not len(self):
            raise DataError(f"{len(text_ids)} rows do not fill a batch of {batch_size}, so there would be no step")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.text_ids), self.rows_per_batch)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(self.seed + self.epoch)
        batches: list[list[int]] = [[] for _ in range(len(self))]
        # room[b]: a batch at or after b that may have room; the last entry stands for none
        room = list(range(len(self) + 1))
        earliest: dict[int, int] = {}  # the first batch that a text has not been in
        self.num_unplaced = 0
        for row in rng.permutation(len(self.text_ids)).tolist():
            texts = set(self.text_ids[row].tolist())
            batch = _find(room, max(earliest.get(text, 0) for text in texts))
            if batch == len(batches):
                self.num_unplaced += 1
                continue
            batches[batch].append(row)
            if len(batches[batch]) == self.rows_per_batch:
                room[batch] = batch + 1
            earliest.update(dict.fromkeys(texts, batch + 1))
        if self.num_unplaced:
            most = self.num_unplaced > len(self.text_ids) / 2
            logger.log(
                logging.WARNING if most else logging.INFO,
                "Epoch %d leaves out %d of %d rows, whose texts are in every batch already%s",
                self.epoch + 1,
                self.num_unplaced,
                len(self.text_ids),
                "; smaller batches would place more of them" if most else "",
            )
        yield from (batches[i] for i in rng.permutation(len(batches)))


class RankBatchSampler:
    """One rank's share of each batch: consecutive rows, of equal number on all ranks, give or take one.

    All ranks iterate over the same batches, so that together they train on exactly the rows of a single process. If a
    batch has fewer rows than there are ranks, the last ranks get none.

    Args:
        batches: yields lists of row indices, the same on all ranks; has a length.
        rank: index of the share.
        num_ranks: number of shares.
    """

    def __init__(
        self, batches: RowBatchSampler | ClassBatchSampler | DistinctTextBatchSampler, *, rank: int, num_ranks: int
    ):
        self.batches = batches
        self.rank = rank
        self.num_ranks = num_ranks

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            size, rest = divmod(len(batch), self.num_ranks)  # the first ranks have one more
            start = self.rank * size + min(self.rank, rest)
            yield batch[start : start + size + (self.rank < rest)]


def _find(room: list[int], batch: int) -> int:
    """Find the first batch with room at or after `batch`, halving the path for later look-ups."""
    while room[batch] != batch:
        room[batch] = room[room[batch]]
        batch = room[batch]
    return batch
