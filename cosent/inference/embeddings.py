"""A file's texts as embeddings on disk: row after row in the file's order, each distinct text embedded once.

Rows are done in chunks, and a chunk is marked as done when its embeddings lie on disk, so that a run that was
interrupted goes on where it was, and the ranks of one run share the chunks among them.

Shapes: N rows of the file, n rows of a chunk, D dimensions.
"""

import json
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from tqdm.auto import tqdm

from cosent.data.formats import KNOWN_TEXT_COLUMNS
from cosent.data.layouts import Columns
from cosent.data.readers import ExampleReader
from cosent.data.rows import GZIP_ERRORS, open_rows
from cosent.distributed import gather_numbers, num_ranks, on_first_rank, rank
from cosent.errors import DataError, UserError
from cosent.files import to_json
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import Tokens, tokenize, tokenizer_digest
from cosent.prefetch import prefetch

logger = logging.getLogger(__name__)

_ANEW = "start anew with overwrite_output=True, or give another output_path"


@dataclass
class EncodingOptions:
    """How a file's texts become embeddings on disk."""

    column: str | None = field(
        default=None,
        metadata={
            "help": "The texts' column: its name in line 1, which is a header then, or in the JSON objects or the "
            "table; or its number from 1, and then line 1 is a row. Default: the only one; text or sentence."
        },
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Put in front of every text. Default: the checkpoint's, where it has one."}
    )
    truncate_dim: int | None = field(
        default=None, metadata={"help": "Keep the first dimensions only, before normalisation."}
    )
    output_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "Type of the embeddings on disk."}
    )
    batch_size: int = field(default=64, metadata={"help": "Texts of 128 tokens in a batch."})
    chunk_size: int = field(
        default=16_384, metadata={"help": "Rows that are read, sorted by length, embedded and saved together."}
    )
    max_known_texts: int = field(
        default=4_000_000,
        metadata={"help": "Texts to recognise when they come again, the latest; each takes 0.2 KB of memory."},
    )
    overwrite_output: bool = field(
        default=False, metadata={"help": "Start anew where there is an output, finished or not."}
    )

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("chunk_size", 1), ("max_known_texts", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")


class EncodedFile(NamedTuple):
    """What `encode_file` did: the output's shape (N, D), the texts that this run embedded, and its seconds."""

    shape: tuple[int, int]
    num_embedded: int
    seconds: float
    was_complete: bool


class _Files(NamedTuple):
    """An output and what lies beside it."""

    output: Path  # there only when it is complete
    work: Path  # the embeddings until then
    progress: Path  # a byte a chunk: 1 when its rows lie in the work file
    settings: Path  # what the embeddings are of; stays, so that a later run knows what it finds


@dataclass(frozen=True)
class _Job:
    """What is to be embedded, how, and where to."""

    model: SentenceBert
    input_path: Path
    columns: Columns
    files: _Files
    options: EncodingOptions
    normalize: bool

    def texts(self) -> Iterator[str]:
        """The texts, and at their end an error if there were rows without."""
        reader = ExampleReader(self.input_path, self.columns, on_bad_rows="skip")
        yield from (example.texts[0] for example in reader)
        if reader.report.num_bad:
            raise DataError(f"{reader.report}\nMend them: every row has to have its embedding")


class _Plan(NamedTuple):
    """What was there at the start: N, a byte a chunk that says whether it was done, and whether the output is there."""

    num_rows: int
    done: bytes
    is_complete: bool = False


class _Chunk(NamedTuple):
    """Rows to write: (n,) rows to take each embedding from, its own where it is new, and the new texts' tokens."""

    number: int
    sources: NDArray[np.int64]
    tokens: Tokens


def encode_file(
    model: SentenceBert,
    input_path: str | Path,
    output_path: str | Path,
    options: EncodingOptions | None = None,
    *,
    normalize_embeddings: bool | None = None,
    show_progress_bar: bool = False,
) -> EncodedFile:
    """Write the embeddings of a file's texts, a row each, in the file's order.

    Memory is bounded, however long the file is. What an interrupted run has done is not done again. Where
    torch.distributed is initialised, all ranks call this, on one file system, and share the chunks; each then embeds a
    text once.

    Args:
        model: the encoder.
        input_path: TSV, CSV, JSON lines or Parquet; see `open_rows`. Texts are stripped, as wherever files are read.
        output_path: .npy for an (N, D) array, .parquet for a table of texts and embeddings.
        options: what else there is to choose. None: the defaults.
        normalize_embeddings: give embeddings unit length, after truncation, whether or not the model does.
        show_progress_bar: whether to show progress on stderr.

    Returns:
        What was done.

    Raises:
        DataError: if the input is missing, empty or damaged, lacks the column, or has a row without a text.
        UserError: if an option is out of range, or the output was made with other settings.
    """
    started = time.monotonic()
    options = options or EncodingOptions()
    dimensions = model.embedding_dim if options.truncate_dim is None else options.truncate_dim
    if not 1 <= dimensions <= model.embedding_dim:
        raise UserError(f"truncate_dim must be between 1 and {model.embedding_dim}, got {dimensions}")
    path, output = Path(input_path), Path(output_path)
    if output.suffix not in (".npy", ".parquet"):
        raise UserError(f"the output must be a .npy or a .parquet file, got {output}")
    files = _Files(output, *(output.with_name(output.name + end) for end in (".work", ".progress", ".json")))
    if path.resolve() in [file.resolve() for file in files]:
        raise UserError(f"{path} would be overwritten by the output {output}; give another output_path")
    job = _Job(model, path, _find_columns(path, options.column), files, options, bool(normalize_embeddings))
    plan = on_first_rank(lambda: _start(job, dimensions))
    num_embedded = 0
    if not plan.is_complete:
        mine = _share(plan.done)
        total = sum(min(options.chunk_size, plan.num_rows - number * options.chunk_size) for number in mine)
        bar = tqdm(total=total, desc="Encoding", unit="text", disable=not show_progress_bar)
        with bar, closing(prefetch(_chunks(job, mine, plan.done))) as chunks:
            by_rank = gather_numbers(sum(_embed(job, chunk, bar) for chunk in chunks))
            num_embedded = sum(number for (number,) in by_rank)
        on_first_rank(lambda: _finish(job))
    return EncodedFile((plan.num_rows, dimensions), num_embedded, time.monotonic() - started, plan.is_complete)


def _find_columns(path: Path, column: str | None) -> Columns:
    """Find the texts' column by the file's first row."""
    unit, rows = open_rows(path)
    try:
        first, row = next(rows, (0, "is empty: it holds no rows"))
    except GZIP_ERRORS as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if isinstance(row, str):
        raise DataError(f"{path}: {unit} {first} {row}" if first else f"{path} {row}")
    names = list(row)
    column = column or _default_column(path, row)
    is_number = column.isdecimal() and (isinstance(row, list) or column not in row)
    if is_number and 1 <= int(column) <= len(names):
        place = int(column) - 1
        logger.info("%s: the texts are column %s; the first is %r", path, column, list(_values(row))[place])
        return Columns("sentences", (names[place] if isinstance(row, dict) else str(place),))
    if is_number or column not in names:
        raise DataError(
            f"{path}: {unit} {first} has no column {column!r} but {', '.join(map(repr, names))}; "
            "give column=NAME, if these are names, or column=NUMBER, counted from 1"
        )
    logger.info("%s: the texts are column %r", path, column)
    return Columns("sentences", (column,))


def _values(row: list[str] | dict[str, Any]) -> Iterable[Any]:
    return row.values() if isinstance(row, dict) else row


def _default_column(path: Path, row: list[str] | dict[str, Any]) -> str:
    """The only column, where it has no name; else the one that is named so, or the only one that holds a text."""
    if isinstance(row, list):
        header = next((name for name in row if name.strip().casefold() in KNOWN_TEXT_COLUMNS), None)
        if header is None and len(row) == 1:
            return "1"
        hint = f"column={header or row[0]!r} if line 1 is a header, column=1 (or another number) if not"
    else:
        texts = [name for name, value in row.items() if isinstance(value, str)]
        named = [name for name in ("text", "sentence") if name in row]
        if named or len(texts) == 1:
            return [*named, *texts][0]
        hint = f"column={next(iter(row))!r}, or another of these names"
    raise DataError(f"{path}: which of the columns {', '.join(map(repr, row))} holds the texts? Give {hint}")


def _start(job: _Job, dimensions: int) -> _Plan:
    """Find out what is done, and make the files where nothing is; a file is read whole before it is begun."""
    files, options = job.files, job.options
    settings = _settings(job)
    if files.settings.exists() and not options.overwrite_output:
        stored = _read_settings(files)
        num_rows = stored.pop("num_rows", 0)  # a file of somebody else's has none
        changed = [name for name in settings if stored.get(name) != settings[name]]
        if changed:
            changes = "; ".join(f"{name} was {stored.get(name)!r}, is {settings[name]!r}" for name in changed)
            raise UserError(f"{files.output} was made or begun with other settings: {changes}; {_ANEW}")
        if files.output.exists():
            for left_over in (files.work, files.progress):  # by a run that was stopped on its last lines
                left_over.unlink(missing_ok=True)
            return _Plan(num_rows, b"", is_complete=True)
        done = files.progress.read_bytes() if files.progress.exists() else b""
        least = num_rows * dimensions * np.dtype(options.output_dtype).itemsize
        whole = files.work.exists() and files.work.stat().st_size > least  # a power cut may have cut it short
        if whole and len(done) == _num_chunks(num_rows, options):
            logger.info("%s: going on, with %d of %d chunks done", files.output, sum(done), len(done))
            return _Plan(num_rows, done)
    elif files.output.exists() and not options.overwrite_output:
        raise UserError(f"{files.output} exists, and {files.settings}, which would say what it is, does not; {_ANEW}")
    num_rows = sum(1 for _ in job.texts())
    done = bytes(_num_chunks(num_rows, options))
    _make_files(files, (num_rows, dimensions), np.dtype(options.output_dtype), done)
    # comes last: without it, nothing is gone on with
    part = files.settings.with_name(files.settings.name + ".part")
    part.touch()
    _write(part, 0, (to_json({**settings, "num_rows": num_rows}, indent=2) + "\n").encode())
    part.replace(files.settings)
    return _Plan(num_rows, done)


def _num_chunks(num_rows: int, options: EncodingOptions) -> int:
    return -(-num_rows // options.chunk_size)


def _read_settings(files: _Files) -> dict[str, Any]:
    try:
        return dict(json.loads(files.settings.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{files.settings} does not say what {files.output} is of: {error}; {_ANEW}") from error


def _settings(job: _Job) -> dict[str, Any]:
    """What decides the embeddings, as JSON has it."""
    model, options = job.model, job.options
    weights = blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {
        "model": Path(str(model.backbone.name_or_path)).name,
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "weights": weights.hexdigest(),
        "tokenizer": tokenizer_digest(model.tokenizer),
        "pooling_mode": model.pooling_mode,
        "max_length": model.max_length,
        "lower_case": model.settings.lower_case,
        "prompt": model.prepare([""], options.prompt)[0],
        "truncate_dim": options.truncate_dim,
        "normalize_embeddings": [model.normalize_embeddings, job.normalize],  # before and after truncation
        "output_dtype": options.output_dtype,
        "chunk_size": options.chunk_size,
        "column": options.column,
        "input": _identity(job.input_path),
    }


def _identity(path: Path) -> str:
    """A digest of the file's bytes: a copy of it is the same input."""
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _make_files(files: _Files, shape: tuple[int, int], dtype: np.dtype[Any], done: bytes) -> None:
    files.output.parent.mkdir(parents=True, exist_ok=True)
    needed = shape[0] * shape[1] * dtype.itemsize * (2 if files.output.suffix == ".parquet" else 1)
    free = shutil.disk_usage(files.output.parent).free
    if needed > free:
        raise UserError(f"{files.output} needs {needed:,} bytes, but its disk has only {free:,} free")
    for path in files:
        path.unlink(missing_ok=True)
    np.lib.format.open_memmap(files.work, "w+", dtype, shape)  # takes no space until its rows are written
    files.progress.touch()
    _write(files.progress, 0, done)


def _share(done: bytes) -> set[int]:
    """The chunks for this rank: dealt out from those that are missing, so that resumed work is balanced, too."""
    missing = [number for number, is_done in enumerate(done) if not is_done]
    return set(missing[rank() :: num_ranks()])


def _chunks(job: _Job, mine: set[int], done: bytes) -> Iterator[_Chunk]:
    """Read and tokenise chunks. Texts of those that were done before are known, texts of other ranks' are not."""
    size = job.options.chunk_size
    known: OrderedDict[bytes, int] = OrderedDict()
    texts = job.texts()
    for number in range(max(mine, default=-1) + 1):
        rows = list(islice(texts, size))
        if number not in mine and not done[number]:
            continue
        sources = _sources(rows, number * size, known, job.options.max_known_texts)
        if not done[number]:
            new = [text for row, text in enumerate(rows) if sources[row] == number * size + row]
            prepared = job.model.prepare(new, job.options.prompt)
            yield _Chunk(number, sources, tokenize(job.model.tokenizer, prepared, job.model.max_length))


def _sources(texts: list[str], first_row: int, known: OrderedDict[bytes, int], max_known: int) -> NDArray[np.int64]:
    """For each text the row where it was first seen, as far as known; (n,). Adds to `known`; the oldest leave."""
    sources = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        sources[i] = known.setdefault(blake2b(text.encode(), digest_size=16).digest(), first_row + i)
        if len(known) > max_known:
            known.popitem(last=False)
    return sources


def _embed(job: _Job, chunk: _Chunk, bar: tqdm) -> int:
    """Embed a chunk, write its rows, and only then mark it as done; gives the number of texts embedded."""
    options, files = job.options, job.files
    embeddings = job.model.encode_tokens(chunk.tokens, batch_size=options.batch_size)[:, : options.truncate_dim]
    if job.normalize:
        embeddings = F.normalize(embeddings, dim=-1)
    done = np.load(files.work, mmap_mode="r")  # (N, D)
    first_row = chunk.number * options.chunk_size
    rows = _rows(chunk.sources, first_row, embeddings.numpy(), done)
    # not through the memory map: on a full disk that would kill the process instead of raising an error
    _write(files.work, done.offset + first_row * done.strides[0], rows.data)
    _write(files.progress, chunk.number, b"\1")
    bar.update(len(rows))
    return len(embeddings)


def _rows(
    sources: NDArray[np.int64], first_row: int, embeddings: NDArray[np.float32], done: NDArray[Any]
) -> NDArray[Any]:
    """Put a chunk's rows together: new embeddings, copies of them, and copies of rows that are done; (n, D)."""
    rows = np.empty((len(sources), done.shape[1]), dtype=done.dtype)
    rows[sources == np.arange(first_row, first_row + len(sources))] = embeddings
    earlier = sources < first_row
    rows[~earlier] = rows[sources[~earlier] - first_row]
    rows[earlier] = done[sources[earlier]]
    return rows


def _write(path: Path, offset: int, content: bytes | memoryview) -> None:
    """Overwrite a part of a file, and wait until it is on disk."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _finish(job: _Job) -> None:
    """Turn the work file into the output."""
    files = job.files
    if _read_settings(files)["input"] != _identity(job.input_path):
        raise DataError(f"{job.input_path} was changed while it was read; {_ANEW}")
    assert all(files.progress.read_bytes()), "a chunk was left out"
    if files.output.suffix == ".parquet":
        part = files.output.with_name(files.output.name + ".part")
        _write_table(part, np.load(files.work, mmap_mode="r"), job.texts(), job.options.chunk_size)
        part.replace(files.output)
        files.work.unlink()
    else:
        files.work.replace(files.output)
    files.progress.unlink()


def _write_table(path: Path, embeddings: NDArray[Any], texts: Iterator[str], rows_per_group: int) -> None:
    import pyarrow
    from pyarrow import parquet

    vectors = pyarrow.list_(pyarrow.from_numpy_dtype(embeddings.dtype), embeddings.shape[1])
    schema = pyarrow.schema({"text": pyarrow.string(), "embedding": vectors})
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, len(embeddings), rows_per_group):
            rows = np.ravel(embeddings[start : start + rows_per_group])
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows), embeddings.shape[1])
            group = pyarrow.array(list(islice(texts, len(column))), pyarrow.string())
            writer.write_table(pyarrow.table([group, column], schema=schema))
