"""Embeds a file's texts to disk, in the file's order; each distinct text is embedded once.

Rows are processed in chunks. A chunk is marked as done once its embeddings are on disk, so that an interrupted run
continues where it stopped, and the ranks of a run can share the chunks.

Shapes: N rows in the file, n rows in a chunk, D dimensions.
"""

import json
import logging
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
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
from cosent.data.rows import open_rows
from cosent.data.shown import shown, shown_names
from cosent.distributed import gather_numbers, num_ranks, on_first_rank, rank
from cosent.errors import DataError, UserError, check_whole
from cosent.files import locked, replacing, to_json, writing
from cosent.model.embedding import NotFiniteError
from cosent.model.encoder import SentenceBert
from cosent.model.tokens import Tokens, tokenize, tokenizer_digest
from cosent.prefetch import prefetch

logger = logging.getLogger(__name__)

_MOST_ROWS = 2**40  # more than a file has

_ANEW = "start anew with overwrite_output=True, or give another output_path"
_BUSY = "is being written by another process at this moment: wait for its end, or give another output_path"


@dataclass
class EncodingOptions:
    """Options for embedding a file's texts to disk."""

    column: str | None = field(
        default=None,
        metadata={
            "help": "The column of the texts: a name from line 1 (then a header), the JSON objects or the table, or a "
            "number from 1 (then line 1 is a row). Default: the only column, text or sentence."
        },
    )
    prompt: str | None = field(
        default=None, metadata={"help": "Prefix for every text. Default: the checkpoint's prompt, if any."}
    )
    truncate_dim: int | None = field(
        default=None, metadata={"help": "Keep only the first dimensions, before normalisation."}
    )
    output_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "Type of the embeddings on disk."}
    )
    batch_size: int = field(default=64, metadata={"help": "Batch size in texts of 128 tokens."})
    chunk_size: int = field(default=16_384, metadata={"help": "Rows to read, sort by length, embed and save together."})
    max_known_texts: int = field(
        default=4_000_000,
        metadata={"help": "How many of the latest texts to recognise if they repeat; each takes 0.2 KB of memory."},
    )
    overwrite_output: bool = field(default=False, metadata={"help": "Overwrite an existing output, finished or not."})

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("chunk_size", 1), ("max_known_texts", 0)):
            check_whole(name, getattr(self, name), least)
        self.chunk_size = min(self.chunk_size, _MOST_ROWS)


class EncodedFile(NamedTuple):
    """The result of `encode_file`: the output's shape (N, D), and the number of texts and seconds of this run."""

    shape: tuple[int, int]
    num_embedded: int
    seconds: float
    was_complete: bool


class _Files(NamedTuple):
    """The output file and the files beside it."""

    output: Path  # exists only when it is complete
    work: Path  # the embeddings until then
    progress: Path  # one byte per chunk: 1 once its rows are in the work file
    settings: Path  # origin of the embeddings; kept, so that a later run can check it

    @property
    def lock(self) -> Path:
        """A lock held while a process writes the output."""
        return self.output.with_name(f"{self.output.name}.lock")


@dataclass(frozen=True)
class _Job:
    """The input, the options and the output of a run."""

    model: SentenceBert
    input_path: Path
    columns: Columns
    files: _Files
    options: EncodingOptions
    normalize: bool

    def texts(self) -> Iterator[str]:
        """Yield the texts; raise an error at the end if rows had none."""
        reader = ExampleReader(self.input_path, self.columns, on_bad_rows="skip")
        yield from (example.texts[0] for example in reader)
        if reader.report.num_bad:
            raise DataError(f"{reader.report}\nMend them: every row has to have its embedding")


class _Plan(NamedTuple):
    """The state at the start: N, one byte per chunk that says whether it is done, and whether the output exists."""

    num_rows: int
    done: bytes
    is_complete: bool = False


class _Chunk(NamedTuple):
    """Rows to write: (n,) rows that supply their embeddings (a new text's own row), and the tokens of new texts."""

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
    """Write the embeddings of a file's texts, one row each, in the file's order.

    Memory is bounded, however long the file is. An interrupted run continues where it stopped. If torch.distributed is
    initialised, all ranks must call this on one file system. They share the chunks, and each embeds a text at most
    once.

    Args:
        model: the encoder.
        input_path: a TSV, CSV, JSON lines or Parquet file, optionally gzipped. Texts are stripped.
        output_path: .npy for an (N, D) array, .parquet for a table of texts and embeddings.
        options: further options. None: the defaults.
        normalize_embeddings: scale embeddings to unit length after truncation, even if the model does not.
        show_progress_bar: whether to show progress on stderr.

    Returns:
        A summary of the run.

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
    job = _Job(model, path, find_columns(path, options.column), files, options, bool(normalize_embeddings))
    num_embedded = 0
    with ExitStack() as held:
        plan = on_first_rank(lambda: _start(job, dimensions, held))
        if not plan.is_complete:
            mine = _share(plan.done)
            total = sum(min(options.chunk_size, plan.num_rows - number * options.chunk_size) for number in mine)
            bar = tqdm(total=total, desc="Encoding", unit="text", disable=not show_progress_bar)
            with bar, closing(prefetch(_chunks(job, mine, plan.done))) as chunks:
                by_rank = gather_numbers(sum(_embed(job, chunk, bar) for chunk in chunks))
                num_embedded = sum(number for (number,) in by_rank)
            on_first_rank(lambda: _finish(job))
    return EncodedFile((plan.num_rows, dimensions), num_embedded, time.monotonic() - started, plan.is_complete)


def find_columns(path: Path, column: str | None, level: int = logging.INFO) -> Columns:
    """Find the column of the texts, as in `EncodingOptions`, from the file's first row; a log message says which."""
    unit, rows = open_rows(path)
    first, row = next(rows, (0, "is empty: it holds no rows"))
    if isinstance(row, str):
        raise DataError(f"{path}: {unit} {first} {row}" if first else f"{path} {row}")
    names = list(row)
    column = column or _default_column(path, row)
    is_number = column.isdecimal() and (isinstance(row, list) or column not in row)
    if is_number and 1 <= int(column) <= len(names):
        place = int(column) - 1
        logger.log(level, "%s: the texts are column %s; the first is %r", path, column, list(_values(row))[place])
        return Columns("sentences", (names[place] if isinstance(row, dict) else str(place),))
    if is_number or column not in names:
        raise DataError(
            f"{path}: {unit} {first} has no column {shown(column)} but {shown_names(names)}; "
            "give column=NAME, if these are names, or column=NUMBER, counted from 1"
        )
    logger.log(level, "%s: the texts are column %r", path, column)
    return Columns("sentences", (column,))


def _values(row: list[str] | dict[str, Any]) -> Iterable[Any]:
    return row.values() if isinstance(row, dict) else row


def _default_column(path: Path, row: list[str] | dict[str, Any]) -> str:
    """Choose an only column without a name, else the column with a known name or the only one that holds a text."""
    if isinstance(row, list):
        header = next((name for name in row if name.strip().casefold() in KNOWN_TEXT_COLUMNS), None)
        if header is None and len(row) == 1:
            return "1"
        hint = f"column={shown(header or row[0])} if line 1 is a header, column=1 (or another number) if not"
    else:
        texts = [name for name, value in row.items() if isinstance(value, str)]
        named = [name for name in ("text", "sentence") if name in row]
        if named or len(texts) == 1:
            return [*named, *texts][0]
        hint = f"column={shown(next(iter(row)))}, or another of these names"
    raise DataError(f"{path}: which of the columns {shown_names(row)} holds the texts? Give {hint}")


def _start(job: _Job, dimensions: int, held: ExitStack) -> _Plan:
    """Find out what is done, or create the files after reading the whole input."""
    files, options = job.files, job.options
    has_folder = files.output.parent.is_dir()
    with suppress(OSError):  # the folder cannot be written to, and yet may hold the whole output
        if has_folder:
            held.enter_context(locked(files.lock, f"{files.output} {_BUSY}"))
    settings = _settings(job)
    if files.settings.exists() and not options.overwrite_output:
        stored = _read_settings(files)
        num_rows = stored.pop("num_rows", 0)  # missing if the file is not ours
        changed = [name for name in settings if stored.get(name) != settings[name]]
        if changed:
            changes = "; ".join(f"{name} was {stored.get(name)!r}, is {settings[name]!r}" for name in changed)
            raise UserError(f"{files.output} was made or begun with other settings: {changes}; {_ANEW}")
        if files.output.exists():
            for left_over in (files.work, files.progress):  # from a run that was stopped at its very end
                left_over.unlink(missing_ok=True)
            return _Plan(num_rows, b"", is_complete=True)
        done = files.progress.read_bytes() if files.progress.exists() else b""
        least = num_rows * dimensions * np.dtype(options.output_dtype).itemsize
        whole = files.work.exists() and files.work.stat().st_size > least  # it may be truncated after a power cut
        if whole and len(done) == _num_chunks(num_rows, options):
            logger.info("%s: going on, with %d of %d chunks done", files.output, sum(done), len(done))
            return _Plan(num_rows, done)
    elif files.output.exists() and not options.overwrite_output:
        raise UserError(f"{files.output} exists, and {files.settings}, which would say what it is, does not; {_ANEW}")
    num_rows = sum(1 for _ in job.texts())
    if not has_folder:
        files.output.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(files.lock, f"{files.output} {_BUSY}"))
    return _begin(files, (num_rows, dimensions), settings, options)


def _begin(files: _Files, shape: tuple[int, int], settings: dict[str, Any], options: EncodingOptions) -> _Plan:
    """Create the files of an output that is made anew."""
    done = bytes(_num_chunks(shape[0], options))
    try:
        _make_files(files, shape, np.dtype(options.output_dtype), done)
        # written last: without this file, no run is continued
        with replacing(files.settings) as part:
            part.touch()
            _write(part, 0, (to_json({**settings, "num_rows": shape[0]}, indent=2) + "\n").encode())
    except OSError:
        for path in (files.work, files.progress):
            path.unlink(missing_ok=True)
        raise
    return _Plan(shape[0], done)


def _num_chunks(num_rows: int, options: EncodingOptions) -> int:
    return -(-num_rows // options.chunk_size)


def _read_settings(files: _Files) -> dict[str, Any]:
    try:
        return dict(json.loads(files.settings.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UserError(f"{files.settings} does not say what {files.output} is of: {error}; {_ANEW}") from error


def _settings(job: _Job) -> dict[str, Any]:
    """Collect everything that the embeddings depend on, for JSON."""
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
    """Compute a digest of the file's content, so that a copy counts as the same input."""
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
    with writing(files.work):
        np.lib.format.open_memmap(files.work, "w+", dtype, shape)  # takes no disk space until rows are written
    files.progress.touch()
    _write(files.progress, 0, done)


def _share(done: bytes) -> set[int]:
    """Choose this rank's chunks among the missing ones, so that resumed work is balanced, too."""
    missing = [number for number, is_done in enumerate(done) if not is_done]
    return set(missing[rank() :: num_ranks()])


def _chunks(job: _Job, mine: set[int], done: bytes) -> Iterator[_Chunk]:
    """Read and tokenise chunks; texts in chunks that were done before are known, those of other ranks are not."""
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
    """Return (n,) rows where each text was first seen, and update `known`, which drops its oldest texts."""
    sources = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        sources[i] = known.setdefault(blake2b(text.encode(), digest_size=16).digest(), first_row + i)
        if len(known) > max_known:
            known.popitem(last=False)
    return sources


def _embed(job: _Job, chunk: _Chunk, bar: tqdm) -> int:
    """Embed a chunk, write its rows, then mark it as done; return the number of texts embedded."""
    options, files = job.options, job.files
    first_row = chunk.number * options.chunk_size
    try:
        embeddings = job.model.encode_tokens(chunk.tokens, batch_size=options.batch_size)[:, : options.truncate_dim]
    except NotFiniteError as error:
        own = np.flatnonzero(chunk.sources == np.arange(first_row, first_row + len(chunk.sources)))
        raise UserError(f"{job.input_path}: row {first_row + own[error.place] + 1} of the texts: {error}") from error
    if job.normalize:
        embeddings = F.normalize(embeddings, dim=-1)
    done = np.load(files.work, mmap_mode="r")  # (N, D)
    rows = _rows(chunk.sources, first_row, embeddings.numpy(), done)
    # not through the memory map, which would kill the process on a full disk instead of raising an error
    _write(files.work, done.offset + first_row * done.strides[0], rows.data)
    _write(files.progress, chunk.number, b"\1")
    bar.update(len(rows))
    return len(embeddings)


def _rows(
    sources: NDArray[np.int64], first_row: int, embeddings: NDArray[np.float32], done: NDArray[Any]
) -> NDArray[Any]:
    """Assemble a chunk's (n, D) rows from new embeddings, copies of them, and copies of finished rows."""
    rows = np.empty((len(sources), done.shape[1]), dtype=done.dtype)
    rows[sources == np.arange(first_row, first_row + len(sources))] = embeddings
    earlier = sources < first_row
    rows[~earlier] = rows[sources[~earlier] - first_row]
    rows[earlier] = done[sources[earlier]]
    return rows


def _write(path: Path, offset: int, content: bytes | memoryview) -> None:
    """Overwrite part of a file, and wait until it is on disk."""
    with writing(path), path.open("r+b") as file:
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
        with replacing(files.output) as part:
            _write_table(part, np.load(files.work, mmap_mode="r"), job.texts(), job.options.chunk_size)
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
