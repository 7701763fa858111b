"""Files of examples in the cache of `datasets`, named by their content."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, config

from cosent.data.formats import Example
from cosent.errors import UserError

ROWS_A_BLOCK = 10_000
CHARACTERS_A_BLOCK = 2**25

_LABELS = {float: pa.float64(), str: pa.string()}


def write_examples(examples: Iterable[Example]) -> tuple[Dataset, str]:
    """Write examples to an Arrow file named by a digest of its content, and return the rows and the digest."""
    folder = Path(config.HF_DATASETS_CACHE) / "cosent"
    with writable_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return _write(examples, folder)


def _write(examples: Iterable[Example], folder: Path) -> tuple[Dataset, str]:
    unfinished = folder / f"unfinished-{uuid4().hex}.arrow"  # process ids are not unique on a shared folder
    content = blake2b(digest_size=16)
    blocks = _blocks(examples)
    first = next(blocks)
    label = _LABELS.get(type(first[0].label))
    schema = pa.schema([("texts", pa.list_(pa.string())), *([("label", label)] if label else [])])
    try:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for block in chain([first], blocks):
                columns = {"texts": [example.texts for example in block], "label": [example.label for example in block]}
                batch = pa.record_batch([pa.array(columns[column.name], column.type) for column in schema], schema)
                for buffer in (buffer for column in batch.columns for buffer in column.buffers() if buffer):
                    content.update(buffer)
                writer.write_batch(batch)
        finished = folder / f"records-{content.hexdigest()}.arrow"
        unfinished.replace(finished)
    finally:
        unfinished.unlink(missing_ok=True)
    return Dataset.from_file(str(finished)), content.hexdigest()


def _blocks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Collect examples in lists, which are shorter if texts are long."""
    block: list[Example] = []
    characters = 0
    for example in examples:
        block.append(example)
        characters += sum(map(len, example.texts))
        if len(block) == ROWS_A_BLOCK or characters >= CHARACTERS_A_BLOCK:
            yield block
            block, characters = [], 0
    if block:
        yield block


@contextmanager
def writable_cache(folder: Path) -> Iterator[None]:
    """Turn an error in writing to the cache into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"the cache {folder} cannot be written: {reason}. The environment variable HF_DATASETS_CACHE names another"
        ) from error
