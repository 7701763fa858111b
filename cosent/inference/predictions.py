"""Scores a file's pairs to disk, in the file's order."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import uuid4

from tqdm.auto import tqdm

from cosent.data.readers import ExampleReader
from cosent.errors import UserError
from cosent.files import to_json, writing

if TYPE_CHECKING:
    from cosent.model.encoder import SentenceBert  # which imports torch

# A spreadsheet takes a cell that begins so for a formula, and runs it; some also take the full-width forms.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_NO_SEPARATORS = str.maketrans("\t\r\n", "   ")

_PAIRS_AT_A_TIME = 16_384


class ScoredRow(NamedTuple):
    """A pair with a model's score and decision; None for unknown values."""

    texts: tuple[str, ...]
    score: float
    label: float | None = None
    probability: float | None = None
    is_match: bool | None = None

    def fields(self) -> dict[str, str | float | int | None]:
        """Return the values by column name, rounded as they are written."""
        return {
            "text1": self.texts[0],
            "text2": self.texts[1],
            "label": self.label,
            "score": round(self.score, 6),
            "probability": None if self.probability is None else round(self.probability, 6),
            "decision": None if self.is_match is None else int(self.is_match),
        }


class Row(Protocol):
    """A row of a file of scores."""

    def fields(self) -> dict[str, str | float | int | None]:
        """Return the values by column name; every row of a file has the same columns."""
        ...


def write_scored(path: str | Path, rows: Iterable[Row], *, spreadsheet: bool = False) -> int:
    """Write scores and their texts as they arrive; the file appears only when it is complete.

    Args:
        path: a .tsv (tabs and line breaks within texts become spaces), .csv or .jsonl file.
        rows: scored pairs, or other rows.
        spreadsheet: .csv only: begin with a byte order mark, from which a spreadsheet knows that this is UTF-8, put all
            texts into quotation marks, and put an apostrophe before texts that a spreadsheet would run as a formula.

    Returns:
        The number of rows.

    Raises:
        UserError: if the file type is unknown, or not .csv for a spreadsheet.
    """
    path = check_output(path, spreadsheet=spreadsheet)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    encoding = "utf-8-sig" if spreadsheet else "utf-8"
    try:
        with writing(path), unfinished.open("w", encoding=encoding, newline="") as file:
            table = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC if spreadsheet else csv.QUOTE_MINIMAL)
            for number, row in enumerate(rows, start=1):  # noqa: B007  # the last one counts
                fields = row.fields()
                if path.suffix == ".jsonl":
                    file.write(to_json(fields) + "\n")
                    continue
                for cells in ([fields] if number == 1 else []) + [fields.values()]:
                    if path.suffix == ".csv":
                        table.writerow([(_cell if spreadsheet else _plain)(value) for value in cells])
                    else:
                        file.write(tsv_line(*cells) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return number


def tsv_line(*cells: str | float | int | None) -> str:
    """Make a line of a .tsv file, without its end; tabs and line breaks within a text become spaces."""
    return "\t".join(_plain(value).translate(_NO_SEPARATORS) for value in cells)


def check_output(path: str | Path, *, spreadsheet: bool = False) -> Path:
    """Check that `write_scored` can write a file.

    Raises:
        UserError: if the file type is unknown, or not .csv for a spreadsheet.
    """
    if Path(path).suffix not in (".tsv", ".csv", ".jsonl"):
        raise UserError(f"scores are written to a .tsv, .csv or .jsonl file, not to {path}")
    if spreadsheet and Path(path).suffix != ".csv":
        raise UserError(f"spreadsheet=True is for a .csv file, and the output is {path}")
    return Path(path)


def score_file(
    model: "SentenceBert",
    reader: ExampleReader,
    output_path: str | Path,
    *,
    threshold: float | None = None,
    batch_size: int = 64,
    show_progress_bar: bool = False,
    spreadsheet: bool = False,
) -> int:
    """Score a file's pairs and decide which match, in blocks, so that memory does not grow with the file.

    The file is read twice, so that bad rows are reported before anything is scored.

    Args:
        model: the encoder.
        reader: the reader of the pairs; any labels are written beside the scores.
        output_path: a .tsv, .csv or .jsonl file; row i belongs to row i of the input.
        threshold: a pair matches if its cosine is at or above this value. None: the checkpoint's threshold.
        batch_size: batch size in texts of 128 tokens.
        show_progress_bar: whether to show progress on stderr.
        spreadsheet: whether the .csv file is made for a spreadsheet, see `write_scored`.

    Returns:
        The number of pairs.

    Raises:
        UserError: if no threshold is given or stored, the input would be overwritten, or the output is not .csv for a
            spreadsheet.
        DataError: if the rows are not pairs.
    """
    output_path = check_output(output_path, spreadsheet=spreadsheet)
    path = reader.source.path
    if path is not None and output_path.resolve() == path.resolve():
        raise UserError(f"{path} would be overwritten by its own scores; give another output")
    threshold = model.settings.threshold(threshold)  # before the file is read
    for _ in reader:
        pass

    def rows() -> Iterator[ScoredRow]:
        examples = iter(reader)
        with closing(tqdm(desc="Scoring", unit="pair", disable=not show_progress_bar)) as progress:
            while block := list(islice(examples, _PAIRS_AT_A_TIME)):
                pairs = [(example.texts[0], example.texts[1]) for example in block]
                prediction = model.predict(pairs, threshold=threshold, batch_size=batch_size)
                for number, example in enumerate(block):
                    yield ScoredRow(
                        example.texts,
                        float(prediction.scores[number]),
                        None if example.label is None else float(example.label),
                        None if prediction.probabilities is None else float(prediction.probabilities[number]),
                        bool(prediction.matches[number]),
                    )
                progress.update(len(block))

    return write_scored(output_path, rows(), spreadsheet=spreadsheet)


def _plain(value: str | float | int | None) -> str:
    return value if isinstance(value, str) else "" if value is None else f"{value:.10g}"


def _cell(value: str | float | int | None) -> str | float | int:
    """Return a cell's value for a spreadsheet: numbers as such, texts so that they are never run as a formula."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    if value is None:
        return ""
    number = float(f"{value:.10g}")
    return int(number) if number.is_integer() else number
