"""Reads queries, documents and judgements of relevance: the files of BEIR and TREC, or plain texts."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cosent.data.formats import to_text
from cosent.data.lines import MAX_TEXT_BYTES, check_file, lines, readable
from cosent.data.readers import ReadReport
from cosent.data.rows import PlacedRow, Row, open_rows, suffix_of
from cosent.data.shown import shown, shown_names
from cosent.errors import DataError

logger = logging.getLogger(__name__)

_IDS = ("_id", "id")
_TITLE = "title"
_TEXTS = ("text", "sentence", "query", "question", "content")

_JUDGED = ("query-id", "corpus-id", "score")
_TYPES_WITH_NAMES = (".csv", ".json", ".jsonl", ".parquet")


class _Columns(NamedTuple):
    """The columns of ids, titles and texts, by name or position; None if there is none."""

    id: int | str | None
    title: int | str | None
    text: int | str
    is_header: bool = False


def read_texts(path: str | Path, *, column: str | None = None) -> dict[str, str]:
    """Read queries or documents, and their ids.

    Args:
        path: a TSV, CSV, JSON lines or Parquet file, optionally gzipped. Ids are in the column "_id" or "id"; without
            such a column, line or row numbers serve as ids. A "title" is put before its text. TSV and CSV files without
            a header hold a text, or an id and a text, in each row.
        column: the column of the texts, without titles: a name from line 1 (then a header), the JSON objects or the
            table, or a number from 1 (then line 1 is a row). None: detect it.

    Returns:
        The texts by id, in the file's order. A text with an id may be empty.

    Raises:
        DataError: if the file is missing, empty or damaged, lacks the column, or has rows that lack a text or repeat an
            id.
    """
    path = Path(path)
    unit, rows = open_rows(path)
    report = ReadReport(str(path))
    texts: dict[str, str] = {}
    columns: _Columns | None = None
    for number, row in rows:
        if columns is None and not isinstance(row, str):
            columns = _find(path, row, column)
            if columns.is_header:
                continue
        report.num_rows += 1
        try:
            name, text = _named_text(row, columns, number)
            if name in texts:
                raise ValueError(f"an earlier row has the id {shown(name)}, too")
            texts[name] = text
        except ValueError as error:
            report.add_problem(unit, number, str(error))
    _check(report)
    return texts


def read_qrels(path: str | Path) -> dict[str, dict[str, float]]:
    """Read judgements of relevance.

    Args:
        path: a file of TREC (query id, iteration, document id and relevance, separated by spaces or tabs), or a TSV,
            CSV, JSON lines or Parquet file of BEIR, with the columns "query-id", "corpus-id" and "score"; optionally
            gzipped.

    Returns:
        The relevance by query id and document id.

    Raises:
        DataError: if the file is missing, empty or damaged, or has rows that are not of this form or contradict
            earlier ones.
    """
    path = Path(path)
    unit, rows = open_rows(path) if suffix_of(path) in _TYPES_WITH_NAMES else ("line", _words(path))
    report = ReadReport(str(path))
    qrels: dict[str, dict[str, float]] = {}
    for number, row in rows:
        if number == 1 and isinstance(row, list) and tuple(name.replace("_", "-") for name in row) == _JUDGED:
            continue
        report.num_rows += 1
        try:
            query, document, relevance = _judgement(row)
            if qrels.setdefault(query, {}).setdefault(document, relevance) != relevance:
                raise ValueError(f"an earlier row has another relevance of {document} to {query}")
        except ValueError as error:
            report.add_problem(unit, number, str(error))
    _check(report)
    return qrels


def _check(report: ReadReport) -> None:
    if not report.num_rows:
        raise DataError(f"{report.path} is empty: it holds no rows")
    if report.num_bad:
        raise DataError(f"{report}\nMend them, or take them out")


def _find(path: Path, row: list[str] | dict[str, Any], column: str | None) -> _Columns:
    """Find the columns from a file's first row."""
    names = [name.strip() for name in row] if isinstance(row, list) else list(row)
    if isinstance(row, list) and column is not None and column.isdecimal() and 1 <= int(column) <= len(row):
        return _Columns(None, None, int(column) - 1)
    text = column or _text_column(row, names)
    if text is None and isinstance(row, list) and len(row) <= 2:
        return _Columns(0 if len(row) == 2 else None, None, len(row) - 1)
    if text not in names:
        found = shown_names(names)
        problem = f"{shown(text)} is none of {found}" if text else f"which of {found} holds the texts"
        raise DataError(f"{path}: {problem}; give column=NAME, if these are names, or column=NUMBER, counted from 1")
    assert text is not None  # as it is among the names
    id_name = next((name for name in _IDS if name in names), None)
    title = _TITLE if column is None and text != _TITLE and _TITLE in names else None
    logger.info("%s: the texts are column %r%s", path, text, f" after {_TITLE!r}" if title else "")
    if isinstance(row, dict):
        return _Columns(id_name, title, text)
    places = {name: place for place, name in enumerate(names)}
    return _Columns(places.get(id_name or ""), places.get(title or ""), places[text], is_header=True)


def _text_column(row: list[str] | dict[str, Any], names: list[str]) -> str | None:
    """Choose the column with a known name; of rows with names, also the only one beside the id."""
    known = [name for name in _TEXTS if name in names]
    if known or isinstance(row, list):
        return next(iter(known), None)
    others = [name for name in names if name not in _IDS]
    return others[0] if len(others) == 1 else None


def _named_text(row: Row, columns: _Columns | None, number: int) -> tuple[str, str]:
    """Return a row's id and text; raise ValueError if it is bad."""
    if isinstance(row, str):
        raise ValueError(row)
    assert columns is not None  # as the first row that is no message says what they are
    values: dict[Any, Any] = dict(enumerate(row)) if isinstance(row, list) else row
    missing = [name for name in (columns.id, columns.text) if name is not None and name not in values]
    if missing:
        raise ValueError(f"lacks {shown_names(missing)}" if isinstance(row, dict) else f"{len(row)} columns only")
    title, text = (None if name is None else values.get(name) for name in (columns.title, columns.text))
    if columns.id is None:
        return str(number), _joined(title, to_text(text, "text"))
    is_empty = isinstance(text, str) and not text.strip()
    return _id(values[columns.id]), _joined(title, "" if is_empty else to_text(text, "text"))


def _joined(title: Any, text: str) -> str:
    return text if title in ("", None) else f"{to_text(title, _TITLE)} {text}".strip()


def _id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"the id is {shown(value)}")
    return str(value).strip()


def _words(path: Path) -> Iterator[PlacedRow]:
    """Yield the words of each line; a file of TREC may have any name."""
    check_file(path)
    with readable(path):
        for number, line in lines(path, MAX_TEXT_BYTES):
            try:
                words = line if isinstance(line, str) else line.decode("utf-8").split()
            except UnicodeDecodeError:
                words = "is not UTF-8"
            if words:  # no blank line
                yield number, words


def _judgement(row: Row) -> tuple[str, str, float]:
    """Return a row's query id, document id and relevance; raise ValueError if it is bad."""
    if isinstance(row, str):
        raise ValueError(row)
    if isinstance(row, dict):
        named = {name.replace("_", "-"): value for name, value in row.items()}
        missing = [name for name in _JUDGED if name not in named]
        if missing:
            raise ValueError(f"lacks {shown_names(missing)}")
        fields = [named[name] for name in _JUDGED]
    elif len(row) in (3, 4):
        fields = [row[0], *row[-2:]]
    else:
        raise ValueError(f"{len(row)} columns, expected 3 (query, document, relevance) or 4 (with TREC's iteration)")
    query, document, value = fields
    try:
        relevance = float(value)
    except (TypeError, ValueError):
        relevance = math.nan
    if not math.isfinite(relevance):
        raise ValueError(f"the relevance {shown(value)} is no number")
    return _id(query), _id(document), relevance
