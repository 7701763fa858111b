"""Training data that is read, shuffled and tokenised while training runs, because it is too large to be stored.

Shapes: n examples in a batch, R ranks.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from cosent.data.formats import FORMATS, DataFormat, Example
from cosent.data.readers import joint_report, open_readers, read_all
from cosent.data.sources import Data, name_of
from cosent.data.token_rows import ExampleTokens
from cosent.errors import DataError, UserError
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import tokenize

logger = logging.getLogger(__name__)

BUFFER_SIZE = 10_000

_NONE = np.empty(0, np.int64)


class TextStream:
    """Examples that are read while training runs; nothing is stored, and memory does not grow with the data.

    The examples are shuffled in a buffer: each one that leaves is drawn from those in it. When the source ends, it is
    read again, in another random order.

    Args:
        source: the examples, as in `read_records`; a dataset of the Hub is downloaded as it is read.
        model: the model whose tokenizer and maximum length are used.
        buffer_size: number of examples in the buffer.
        options: further arguments of `read_records`. With `on_bad_rows="error"`, the first bad row ends training.

    Attributes:
        name: name of the source in messages.
        data_format: the format of the examples.
        readers: the readers of the source's parts; their reports count the bad rows of the latest pass.

    Raises:
        DataError: if the source cannot be used, or has no rows.
        UserError: if the buffer is not positive, or the examples have classes: batches of classes need all of them.
    """

    def __init__(self, source: Data, model: SentenceBert, *, buffer_size: int = BUFFER_SIZE, **options: Any):
        if buffer_size < 1:
            raise UserError(f"buffer_size must be at least 1, got {buffer_size}")
        self.readers = open_readers(source, streaming=True, **options)
        self.name = name_of([reader.source for reader in self.readers])
        self.buffer_size = buffer_size
        self._model = model
        self._positive_label_min: float | None = None
        self._becomes_triplets = False
        self._begun = self._begin()
        self._is_used = False
        found = self.readers[0].data_format
        assert found is not None  # otherwise there was no row, which is an error
        self.data_format: DataFormat = found
        if FORMATS[found].label is str:
            raise UserError(f"{self.name} holds {FORMATS[found].noun}: batches of classes need all data, not a stream")

    def to_triplets(self, *, positive_label_min: float | None = None) -> None:
        """Turn pairs into anchors with positives, leaving out pairs that do not match.

        Args:
            positive_label_min: the lowest label of a match. None: labels must be 0 and 1.
        """
        self._becomes_triplets, self._positive_label_min = True, positive_label_min
        self.data_format = "triplets"

    def shuffled(self, seed: int) -> Iterator[Example]:
        """Yield the examples again and again, shuffled in the buffer.

        Args:
            seed: seed of the order.

        Raises:
            DataError: if a row is bad and not to be skipped, or the source can be read only once and has ended.
        """
        generator = np.random.default_rng(seed)
        for number in count():
            if not self._is_repeatable and (number or self._is_used):
                raise DataError(f"{self.name} has ended, and can be read only once: give fewer max_steps")
            examples = self._examples()
            self._is_used = True
            first = next(examples, None)
            if first is None:
                raise DataError(f"{self.name}: no pair matches, so there is no positive to learn from")
            yield from _shuffled(chain([first], examples), self.buffer_size, generator)
            if number == 0 and (report := joint_report(self.readers)).num_bad:
                logger.warning("%s", report)

    def head(self, number: int) -> list[Example]:
        """Read the first examples, in their own order.

        Args:
            number: the most to read.
        """
        if self._begun is not None:  # they cannot be read again
            first = list(islice(self._begun, number))
            self._begun = chain(first, self._begun)
            return first
        return list(islice(self._examples(), number))

    def check_workers(self) -> None:
        """Refuse sources that several worker processes of a data loader cannot each read as a whole.

        Raises:
            UserError: if there is one.
        """
        for reader in self.readers:
            if reader.source.is_shared or not reader.source.is_repeatable:
                raise UserError(f"{reader.source.name} is read by one process: dataloader_num_workers must be 0 or 1")

    def tokenize(self, examples: Sequence[Example]) -> ExampleTokens:
        """Tokenise a batch.

        Args:
            examples: n examples; n may be 0.
        """
        if not examples:
            return ExampleTokens(_NONE.astype(np.int32), _NONE.astype(np.int32), _NONE, _NONE, _NONE.astype(float))
        model = self._model
        tokens = tokenize(
            model.tokenizer, model.prepare([text for one in examples for text in one.texts]), model.max_length
        )
        has_labels = FORMATS[self.data_format].label is not None
        return ExampleTokens(
            tokens.input_ids.astype(np.int32),
            tokens.lengths.astype(np.int32),
            tokens.text_ids(),
            np.array([len(one.texts) for one in examples], dtype=np.int64),
            np.array([one.label for one in examples], dtype=np.float64) if has_labels else None,
        )

    def _begin(self) -> Iterator[Example] | None:
        """Read the first example, which tells the format and whether the source can be used.

        Returns:
            All examples, if they cannot be read again. Otherwise no open file is kept, as worker processes would share
            its position.
        """
        examples = read_all(self.readers)
        first = next(examples)
        return None if self._is_repeatable else chain([first], examples)

    @property
    def _is_repeatable(self) -> bool:
        return all(reader.source.is_repeatable for reader in self.readers)

    def _examples(self) -> Iterator[Example]:
        """Yield the examples of one pass."""
        examples = read_all(self.readers) if self._begun is None else self._begun
        return self._matching(examples) if self._becomes_triplets else examples

    def _matching(self, pairs: Iterable[Example]) -> Iterator[Example]:
        least = self._positive_label_min
        for pair in pairs:
            label = float(pair.label)  # type: ignore[arg-type]  # as these are pairs
            if least is None and label not in (0, 1):
                raise DataError(
                    f"{self.name}: labels are graded; positive_label_min says from which one on a pair matches"
                )
            if label >= (1 if least is None else least):
                yield Example(pair.texts)


class BatchStream(IterableDataset):
    """Batches of a stream, of which each rank, and each worker process of a data loader, takes its own.

    Args:
        stream: the examples.
        batch_size: number of examples in a batch of all ranks together.
        seed: seed of the order.
        rank: this process's number.
        num_ranks: R; a rank gets every R-th example of a batch.

    Attributes:
        skip: number of batches at the beginning that are read but not tokenised, as a resumed run drops them.
    """

    def __init__(self, stream: TextStream, *, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1):
        self.stream = stream
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.skip = 0

    def __iter__(self) -> Iterator[ExampleTokens]:
        """Yield this rank's share of each batch, tokenised."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if step > 1:
            self.stream.check_workers()
        examples = self.stream.shuffled(self.seed)
        for number in count():
            batch = list(islice(examples, self.batch_size))
            if number % step == first:
                mine = batch[self.rank :: self.num_ranks] if number >= self.skip else []
                yield self.stream.tokenize(mine)


def _shuffled(examples: Iterable[Example], size: int, generator: np.random.Generator) -> Iterator[Example]:
    """Shuffle examples in a buffer: each one that leaves is drawn from those in it."""
    buffer: list[Example] = []
    for example in examples:
        if len(buffer) < size:
            buffer.append(example)
            continue
        place = int(generator.integers(size))
        yield buffer[place]
        buffer[place] = example
    yield from (buffer[place] for place in generator.permutation(len(buffer)))


def stream_data(source: Data, model: SentenceBert, **options: Any) -> TextStream:
    """Make a stream of training data that is read, shuffled and tokenised while training runs.

    Args:
        source: the examples, as in `read_records`: a path, a `datasets.IterableDataset`, a dataset of the Hub, ...
        model: the model whose tokenizer and maximum length are used.
        options: further arguments of `TextStream` and `read_records`.

    Returns:
        The stream, which `CosentTrainer` takes as `train_dataset`; `max_steps` says how long it trains.
    """
    return TextStream(source, model, **options)
