"""Standard input and output instead of files: `-`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal, NamedTuple

from cosent.cli.parsing import require_files
from cosent.cli.running import launched_ranks
from cosent.cli.wording import alias
from cosent.errors import UserError

InputFormat = Literal["tsv", "csv", "jsonl"]

STREAM = "-"
DEFAULT_FORMAT: InputFormat = "tsv"


class StreamedPaths(NamedTuple):
    """The named files, or temporary files for the standard streams."""

    input: str
    output: str


def check_streams(input_path: str | None, output_path: str | None, input_format: InputFormat | None) -> None:
    """Refuse a missing input, an input format for a named file, and streams shared by several processes."""
    if input_format is not None and input_path != STREAM:
        raise UserError("--input_format is of standard input, --input_path -; the ending of a file says what it is")
    if input_path != STREAM:
        require_files(input_path)
    if output_path == STREAM and sys.stdout is None:
        raise UserError("standard output is closed; name a file with --output_path")
    if STREAM in (input_path, output_path) and launched_ranks()[1] > 1:
        raise UserError("several processes cannot share standard input or output: name files instead of -")


def _save_input(path: Path) -> None:
    if sys.stdin is None:
        raise UserError("standard input is closed; pipe a file to it, or name one instead of -")
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
    except OSError as error:
        raise UserError(f"standard input cannot be kept in {path.parent}: {error.strerror or error}") from error


def output_name(path: str) -> str:
    """Return the name of an output in messages."""
    return "standard output" if path == STREAM else path


@contextmanager
def streamed(
    input_path: str, output_path: str, input_format: InputFormat | None, *, output_suffix: str
) -> Iterator[StreamedPaths]:
    """Let a command that works on files use standard input and output if a path is `-`.

    The command's messages go to stderr if standard output is its result.

    Args:
        input_path: a file, or `-`.
        output_path: a file, or `-`.
        input_format: format of standard input. None: tab-separated, or one text per line.
        output_suffix: file type of the data on standard output.
    """
    if STREAM not in (input_path, output_path):
        yield StreamedPaths(input_path, output_path)
        return
    with tempfile.TemporaryDirectory(prefix="cosent-") as folder:
        source = Path(folder, f"standard-input.{input_format or DEFAULT_FORMAT}")
        target = Path(folder, f"standard-output{output_suffix}")
        if input_path == STREAM:
            _save_input(source)
        paths = StreamedPaths(*(
            str(own) if path == STREAM else path for path, own in ((input_path, source), (output_path, target))
        ))  # fmt: skip
        with _named(source), alias(str(target), "standard output"):
            if output_path == STREAM:
                with redirect_stdout(sys.stderr):
                    yield paths
                with target.open("rb") as result:
                    shutil.copyfileobj(result, sys.stdout.buffer)
                sys.stdout.flush()
            else:
                yield paths


@contextmanager
def _named(source: Path) -> Iterator[None]:
    """Call the copy of standard input by that name in messages."""
    with alias(str(source), "standard input"):
        try:
            yield
        except UserError as error:
            # a suggested conversion command becomes part of the pipe
            conversion = f" < {source} > {source.with_name(f'new-{source.name}')}"
            raise type(error)(str(error).replace(conversion, "")) from error
