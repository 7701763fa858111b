"""Standard input and output in the place of files: `-`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Literal, NamedTuple

from cosent.cli.parsing import require_files
from cosent.cli.running import launched_ranks
from cosent.errors import UserError

InputFormat = Literal["tsv", "csv", "jsonl"]

STREAM = "-"
DEFAULT_FORMAT: InputFormat = "tsv"


class StreamedPaths(NamedTuple):
    """Files in the place of the standard streams, or the files that were named."""

    input: str
    output: str


def check_streams(input_path: str | None, output_path: str | None, input_format: InputFormat | None) -> None:
    """Refuse a missing input, a format of a named one, and streams that several processes would share."""
    if input_format is not None and input_path != STREAM:
        raise UserError("--input_format is of standard input, --input_path -; the ending of a file says what it is")
    if input_path != STREAM:
        require_files(input_path)
    if STREAM in (input_path, output_path) and launched_ranks()[1] > 1:
        raise UserError("several processes cannot share standard input or output: name files instead of -")


def output_name(path: str) -> str:
    """What a remark calls an output."""
    return "standard output" if path == STREAM else path


@contextmanager
def streamed(
    input_path: str, output_path: str, input_format: InputFormat | None, *, output_suffix: str
) -> Iterator[StreamedPaths]:
    """Let a command that works on files read standard input and write standard output, where a path is `-`.

    What the command prints goes to stderr if standard output is its result.

    Args:
        input_path: a file, or `-`.
        output_path: a file, or `-`.
        input_format: of standard input. None: tab-separated, or a text a line.
        output_suffix: what kind of file goes to standard output.
    """
    if STREAM not in (input_path, output_path):
        yield StreamedPaths(input_path, output_path)
        return
    with tempfile.TemporaryDirectory(prefix="cosent-") as folder:
        source = Path(folder, f"standard-input.{input_format or DEFAULT_FORMAT}")
        target = Path(folder, f"standard-output{output_suffix}")
        if input_path == STREAM:
            with source.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        paths = StreamedPaths(*(
            str(own) if path == STREAM else path for path, own in ((input_path, source), (output_path, target))
        ))  # fmt: skip
        try:
            if output_path == STREAM:
                with redirect_stdout(sys.stderr):
                    yield paths
                with target.open("rb") as result:
                    shutil.copyfileobj(result, sys.stdout.buffer)
                sys.stdout.flush()
            else:
                yield paths
        except UserError as error:
            raise type(error)(str(error).replace(str(source), "standard input")) from error
