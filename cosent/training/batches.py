"""Batches of the training data: their collator, and the sampler of batches of classes."""

import logging

import numpy as np
import torch

from cosent.data.collator import TokenBatchCollator
from cosent.data.datasets import TextDataset
from cosent.data.formats import FORMATS
from cosent.data.samplers import ClassBatchSampler
from cosent.data.streams import BatchStream, TextStream
from cosent.data.token_rows import TokenRows
from cosent.distributed import num_ranks, rank
from cosent.errors import UserError
from cosent.training.arguments import CosentTrainingArguments

logger = logging.getLogger(__name__)


def collator(dataset: TextDataset | TextStream) -> TokenBatchCollator:
    """Make the collator of a dataset's rows; what matches in a stream is known only from its equal texts."""
    kind = FORMATS[dataset.data_format]
    return TokenBatchCollator(
        num_views=kind.num_views,
        label_dtype={float: torch.float32, str: torch.int64, None: None}[kind.label],
        groups=dataset.positive_groups if kind.knows_matches and isinstance(dataset, TextDataset) else None,
    )


def rows_of(dataset: TextDataset | TextStream, args: CosentTrainingArguments) -> TokenRows | BatchStream:
    """Return what a data loader reads: the rows of a dataset, or the batches of a stream."""
    if isinstance(dataset, TextDataset):
        return TokenRows(dataset.tokens)
    seed = args.seed if args.data_seed is None else args.data_seed
    rows = num_ranks() * args.train_batch_size
    return BatchStream(dataset, batch_size=rows, seed=seed, rank=rank(), num_ranks=num_ranks())


def class_batches(dataset: TextDataset, rows: int, samples_per_class: int, seed: int) -> ClassBatchSampler:
    """Make the sampler of batches of classes, with at most so many rows a batch."""
    if rows < 2 * samples_per_class:
        raise UserError(f"two classes of {samples_per_class} rows do not fit into memory: lower samples_per_class")
    sampler = ClassBatchSampler(
        dataset.labels,
        classes_per_batch=rows // samples_per_class,
        samples_per_class=samples_per_class,
        seed=seed,
    )
    if sampler.num_singletons:
        logger.warning(
            "%d of %d classes have a single row, hence no positive: training leaves these rows out",
            sampler.num_singletons,
            len(np.unique(dataset.labels)),
        )
    logger.info("Batches of %d classes, up to %d rows each", sampler.classes_per_batch, sampler.samples_per_class)
    return sampler
