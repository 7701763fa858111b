"""Detects what the fields of a row mean: a scored pair, a sentence, a triplet, or a text with a class.

Ambiguous files are never guessed: if names or fields leave a doubt, the error names the parameters that settle it.

Shapes: K texts per example.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

from cosent.data.clues import SEPARATORS
from cosent.data.formats import (
    FORMATS,
    NO_LABEL,
    DataFormat,
    Example,
    Format,
    is_label_word,
    is_number,
    to_score,
    to_text,
)
from cosent.data.rows import Row
from cosent.data.shown import shown_names
from cosent.errors import UserError

_LIKELIEST = next(iter(FORMATS))  # the format to choose if names fit several

_NEGATIVE = re.compile(r"neg(ative)?s?(_?title)?_?\d*")
_ID = re.compile(r"(.*_)?(id|idx|index|guid|uid|qid)\d*|(unnamed:_\d+)?|__index_level_\d+__")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_ENOUGH_ROWS = 8  # rows needed to tell whether values repeat

_PAIRS = frozenset(FORMATS["pairs"].text_columns)
_GUESSED = "two columns without names are taken for {0}; data_format says otherwise"


@dataclass(frozen=True)
class Layout:
    """The meaning of a file's columns.

    Attributes:
        data_format: the data format.
        texts: positions or names of the text columns.
        label: position or name of the label column, if any.
        any_negatives: whether all further fields, or names like "negative_2", are negatives.
        width: least number of fields in a row without names.
        max_width: largest number of fields in such a row.
        is_header: whether the first row holds names.
        needs_label: whether every pair must have a label; if not, it may be empty.
        remark: what was guessed, and how to override it; "" if nothing was.
    """

    data_format: DataFormat
    texts: Sequence[int] | Sequence[str]
    label: int | str | None = None
    any_negatives: bool = False
    width: int = 0
    max_width: float = math.inf
    is_header: bool = False
    needs_label: bool = True
    remark: str = ""

    def examples(self, row: Row) -> list[Example]:
        """Turn a row into examples.

        Args:
            row: the row as read from the file.

        Returns:
            One example; for sentences one per text column, for triplets one per positive.

        Raises:
            ValueError: if the row is bad; the message says why.
        """
        if isinstance(row, str):
            raise ValueError(row)
        if self._plain_pair is not None and isinstance(row, list) and self.width <= len(row) <= self.max_width:
            first, second, score = self._plain_pair(row)
            return [Example((to_text(first, "first text"), to_text(second, "second text")), to_score(score))]
        values, label = self._list_fields(row) if isinstance(row, list) else self._named_fields(row)
        kind = FORMATS[self.data_format]
        if kind.label is float and not self.needs_label and (label is None or not str(label).strip()):
            label = NO_LABEL
        return kind.examples(values, label)

    @cached_property
    def _plain_pair(self) -> Callable[[list[str]], tuple[str, str, str]] | None:
        """A fast getter of the fields of an unnamed pair, by far the most frequent kind of row in large files."""
        places = [*self.texts, self.label]
        is_pair = FORMATS[self.data_format].label is float and len(places) == 3
        is_plain = is_pair and all(isinstance(place, int) for place in places)
        is_plain = is_plain and self.needs_label
        return itemgetter(*places) if is_plain else None

    def _list_fields(self, row: list[str]) -> tuple[list[Any], Any]:
        if not self.width <= len(row) <= self.max_width:
            more = "" if self.max_width == self.width else " or more" if len(row) < self.width else " or fewer"
            expected = self.width if len(row) < self.width else int(self.max_width)
            raise ValueError(f"{len(row)} columns, expected {expected}{more}")
        places = [int(place) for place in self.texts]
        further = row[len(places) :] if self.any_negatives else []
        label = row[self.label] if isinstance(self.label, int) and self.label < len(row) else None
        return [*(row[place] for place in places if place < len(row)), *further], label

    def _named_fields(self, row: dict[str, Any]) -> tuple[list[Any], Any]:
        names = [*self.texts, *([] if self.label is None else [self.label])]
        if not all(name in row for name in names):
            raise ValueError(f"lacks {shown_names(name for name in names if name not in row)}")
        further = [name for name in row if _NEGATIVE.fullmatch(_plain(name))] if self.any_negatives else []
        label = None if self.label is None else row[str(self.label)]
        return [row[str(name)] for name in [*self.texts, *further]], label


@dataclass(frozen=True)
class Columns:
    """What the caller declares about a file's columns; the rest is detected.

    Attributes:
        data_format: the data format; "auto" detects it from names and fields.
        texts: the text columns, by name or, in a file without a header, by position from 0.
        label: the label column, by name or position.
        likely: the format of rows with two unnamed fields, which "auto" cannot detect.
        needs_label: whether pairs need a label; if not, further columns are ignored.
    """

    data_format: DataFormat = "auto"
    texts: tuple[str, ...] | None = None
    label: str | None = None
    likely: DataFormat | None = None
    needs_label: bool = True

    def __post_init__(self) -> None:
        if self.data_format not in ("auto", *FORMATS):
            raise ValueError(f"data_format must be auto or one of {', '.join(FORMATS)}, got {self.data_format!r}")
        if isinstance(self.texts, str):
            names = tuple(name.strip() for name in self.texts.split(","))
            raise TypeError(f"text_columns must be a tuple of names, got {self.texts!r}; use text_columns={names}")
        if self.texts is not None:
            object.__setattr__(self, "texts", tuple(map(str, self.texts)))
        if self.label is not None:
            object.__setattr__(self, "label", str(self.label))
        twice = next((name for name in self._declared if self._declared.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"text_columns and label_column name {twice!r} twice; name each column once")

    def find(self, rows: Sequence[Row]) -> Layout | None:
        """Detect the layout of a file.

        Args:
            rows: the first rows of the file.

        Returns:
            The layout; None if no row has the required names.

        Raises:
            ValueError: if the rows are ambiguous, or the declared columns do not fit them.
        """
        lists = [row for row in rows if isinstance(row, list)]
        if lists:
            return self._of_lists(lists)
        named = (self._of_names(list(row)) for row in rows if isinstance(row, dict))
        return next((layout for layout in named if layout is not None), None)

    def needed(self, names: Sequence[str]) -> list[str]:
        """Choose the columns of a table from which examples are made.

        Args:
            names: names of all columns.

        Raises:
            ValueError: if there are none, or the names are ambiguous.
        """
        layout = self._of_names(list(names))
        if layout is None:
            raise ValueError(self.not_found(names))
        label = [] if layout.label is None else [layout.label]
        negatives = [name for name in names if layout.any_negatives and _NEGATIVE.fullmatch(_plain(name))]
        return [str(name) for name in [*layout.texts, *label, *negatives]]

    def not_found(self, names: Sequence[str]) -> str:
        """Make the message that a row lacks the required names."""
        wanted = FORMATS[self.data_format].wanted if self.data_format in FORMATS else "texts and labels"
        lacking = [name for name in self._declared if name not in names]
        problem = (
            f"has no column {shown_names(lacking)} but {shown_names(names)}"
            if lacking
            else f"has the columns {shown_names(names)}, which do not say where {wanted} are"
        )
        return f"{problem}; name them with text_columns and label_column"

    @property
    def _declared(self) -> list[str]:
        return [*(self.texts or ()), *([] if self.label is None else [self.label])]

    def _of_names(self, names: list[str]) -> Layout | None:
        """Find a layout by column names, for the declared format or else the first format that they fit."""
        if not all(name in names for name in self._declared):
            return None
        known = {_plain(name): name for name in reversed(names)}  # the first of several equal names wins
        for data_format in FORMATS if self.data_format == "auto" else (self.data_format,):
            kind = FORMATS[data_format]
            texts, labels = self._names(kind, known)
            if texts and (labels or kind.label is None or not self.needs_label):
                self._check_distinct([*texts, *labels], names)
                self._check_only(kind, texts, labels, known)
                self._check_label(data_format, texts)
                any_negatives = kind.any_negatives and self.texts is None
                # two declared text columns may still be a pair whose label column was not declared
                doubtful = self.texts is None or kind.any_negatives and len(self.texts) == 2
                if self.data_format == "auto" and data_format != _LIKELIEST and doubtful:
                    self._check_left_over(data_format, [*texts, *labels], names)
                label = labels[0] if labels else None
                return Layout(data_format, texts, label, any_negatives, needs_label=self.needs_label)
        return None

    def _check_distinct(self, found: list[str], names: list[str]) -> None:
        """Refuse to choose between columns of the same name; declared ones are told apart by spelling."""
        for name in found:
            same = [other for other in names if other == name or name not in self._declared and _is_same(other, name)]
            if len(same) > 1:
                raise ValueError(f"has several columns {shown_names(same)}; rename those that are not meant")

    def _check_only(self, kind: Format, texts: list[str], labels: list[str], known: dict[str, str]) -> None:
        """Refuse to choose between several known columns of texts, or of labels."""
        candidates = [names for names in kind.text_columns if all(name in known for name in names)]
        further = (sorted({known[name] for name in names} - set(texts)) for names in candidates)
        if self.texts is None and (more := next(filter(None, further), None)):
            raise ValueError(
                f"has the columns {shown_names(texts)} and {shown_names(more)}, any of which could be the texts; "
                "name those that are meant with text_columns"
            )
        found = [known[name] for name in kind.label_columns if name in known and known[name] not in texts]
        if self.label is None and self.needs_label and len(found) > 1:
            raise ValueError(
                f"has the columns {shown_names(found)}, any of which could be the labels; name the one that is meant "
                "with label_column"
            )

    def _check_label(self, data_format: DataFormat, texts: list[str]) -> None:
        """Refuse expected pairs without a label, which would be another task as triplets."""
        names = tuple(map(_plain, texts))
        if self.data_format == "auto" and self.likely == "pairs" and data_format == "triplets" and names in _PAIRS:
            raise ValueError(
                f"has the columns {shown_names(texts)} and no label. Name it with label_column, or say with "
                "data_format='triplets' that these are anchors and positives"
            )

    def _names(self, kind: Format, known: dict[str, str]) -> tuple[list[str], list[str]]:
        """Find the text and label columns of a format among the names; empty if there are none."""
        chosen = list(self.texts) if self.texts is not None else _first(kind.text_columns, known)
        if not kind.fits(len(chosen)) or kind.any_negatives and self.label is not None:
            return [], []
        declared = [self.label] if self.label is not None and kind.label is not None else []
        return chosen, declared or _first([(name,) for name in kind.label_columns], known)

    def _check_left_over(self, data_format: DataFormat, found: list[str], names: list[str]) -> None:
        """Refuse to guess if a left-over column may be a label or another text."""
        may_be = [name for name in names if name not in found and not _ID.fullmatch(_plain(name))]
        if FORMATS[data_format].any_negatives:
            may_be = [name for name in may_be if not _NEGATIVE.fullmatch(_plain(name))]
        if may_be:
            raise ValueError(
                f"has the columns {shown_names(names)}: could be {data_format}, were it not for "
                f"{shown_names(may_be)}. Say what it is with data_format='{data_format}', or "
                "name the columns with text_columns and label_column"
            )

    def _of_lists(self, rows: list[list[str]]) -> Layout:
        header = rows[0]
        if self._declared and all(name.isdecimal() for name in self._declared):
            return replace(self._of_positions(), is_header=_is_count(header))
        if _is_count(header) and rows[1:]:
            return replace(self._of_lists(rows[1:]), is_header=True)
        layout = self._of_names(header)
        if layout is not None:
            return _in_header(layout, header)
        self._check_writing(header)
        if self._declared or _looks_like_names(header):
            raise ValueError(f"line 1 {self.not_found(header)}")
        return self._of_fields(rows)

    def _check_writing(self, header: list[str]) -> None:
        """Refuse names that would be known without quotation marks or with another separator."""
        unquoted = [field.strip().strip('"') for field in header]
        readings = {"stand in quotation marks": unquoted}
        if len(header) == 1:
            for mark, what in SEPARATORS.items():
                names = [name.strip().strip('"') for name in header[0].split(mark)]
                readings[f"are separated by {what}"] = names if len(names) > 1 else header
        for what, names in readings.items():
            if names != header and self._of_names(names) is not None:
                raise ValueError(f"line 1 has the columns {shown_names(names)}, which {what}")

    def _of_positions(self) -> Layout:
        texts = [int(name) for name in self.texts] if self.texts is not None else None
        data_format = self.data_format
        if data_format == "auto":
            single = "sentences" if self.label is None else "classes"
            data_format = "pairs" if texts is None or len(texts) == 2 else "triplets" if len(texts) > 2 else single
        kind = FORMATS[data_format]
        texts = texts or list(kind.text_places or (0,))
        if not kind.fits(len(texts)):
            raise ValueError(f"{data_format} do not have {len(texts)} text columns; see text_columns")
        default = kind.label_place if self.needs_label else None
        label = int(self.label) if self.label is not None and kind.label is not None else default
        needed = texts[: kind.least_texts] if kind.any_negatives else texts
        width = max([*needed, *([] if label is None else [label])]) + 1
        return Layout(data_format, texts, label, width=width, needs_label=self.needs_label)

    def _of_fields(self, rows: list[list[str]]) -> Layout:
        """Find the layout of rows without names, in the documented column order."""
        width = _width(rows)
        # the first row is ignored, because it may be a header of unknown names
        whole = [row for row in rows if len(row) == width]
        body = [row for row in rows[1:] if len(row) == width] or whole
        # except for a column that is empty below it
        columns = ([row[i] for row in (body if any(row[i].strip() for row in body) else whole)] for i in range(width))
        numbers = [i for i, fields in enumerate(columns) if _are_numbers(fields)]
        names = [column for column in range(1, width) if _are_names([row[column] for row in body])]
        data_format = self._guess(width, numbers, names) if self.data_format == "auto" else self.data_format
        kind = FORMATS[data_format]
        no_numbers = [column for column in range(width) if column not in numbers or width == 1]
        texts = no_numbers if kind.text_places is None else list(kind.text_places)
        if not texts or width > 1 and set(texts) & set(numbers):
            raise ValueError(
                f"has mostly numbers in the columns {shown_names(numbers)}, counted from 0; say where "
                f"{kind.wanted} are with text_columns and label_column, by the names in line 1, or by "
                "position if there are none"
            )
        remark = "" if self.data_format != "auto" or width != 2 else _GUESSED.format(data_format)
        if kind.any_negatives:
            _check_negatives(numbers)
            return Layout(data_format, texts, any_negatives=True, width=kind.least_texts, remark=remark)
        place = kind.label_place
        if not self.needs_label:
            label = place if place is not None and place < width and place in numbers else None
            return Layout(data_format, texts, label, width=kind.least_texts, needs_label=False)
        width = width if place is None else place + 1
        return Layout(data_format, texts, place, width=width, max_width=width, remark=remark)

    def _guess(self, width: int, numbers: list[int], names: list[int]) -> DataFormat:
        """Guess the format from the number of fields and from the fields that are numbers or repeated names."""
        if width == 1:
            return "sentences"
        if width == 2:
            return self._guess_of_two(names)
        if width == 3 and 2 in numbers:
            return "pairs"
        if numbers:
            raise ValueError(
                f"has {width} columns without names, of which {shown_names(numbers)} (from 0) hold numbers; "
                "say where the texts and the label are, by position, with text_columns and label_column"
            )
        if names:
            raise ValueError(
                f"has the same few values again and again in the columns {shown_names(names)} (from 0), or words "
                "that labels have: labels or negatives? Say which with data_format='triplets', or with text_columns "
                "and label_column"
            )
        return "triplets"

    def _guess_of_two(self, names: list[int]) -> DataFormat:
        """Guess the format of rows of two fields, which only the caller can know."""
        if self.likely is None or self.likely == "triplets" and names:
            raise ValueError(
                "has two columns without names: a text and its class, or an anchor and its positive? Say which "
                "with data_format='classes' or data_format='triplets'"
            )
        if self.likely == "pairs":
            raise ValueError(
                "has two columns without names: pairs need a third one, the label. If these are anchors and "
                "positives, or texts and classes, say data_format='triplets' or data_format='classes'"
            )
        return self.likely


def _in_header(layout: Layout, header: list[str]) -> Layout:
    """Convert a layout by name into one by position, given the header."""
    negatives = [name for name in header if _NEGATIVE.fullmatch(_plain(name))] if layout.any_negatives else []
    places = [header.index(str(name)) for name in [*layout.texts, *negatives]]
    label = None if layout.label is None else header.index(str(layout.label))
    # a row with fewer negatives may lack its last fields
    kind = FORMATS[layout.data_format]
    width = max(places[: kind.least_texts]) + 1 if kind.any_negatives else len(header)
    return replace(
        layout, texts=places, label=label, any_negatives=False, width=width, max_width=len(header), is_header=True
    )


def _check_negatives(numbers: list[int]) -> None:
    """Refuse columns of numbers as hard negatives."""
    if numbers:
        raise ValueError(
            f"has mostly numbers in the columns {shown_names(numbers)}, counted from 0, which would be hard negatives; "
            "name the columns of the anchor, the positive and the negatives with text_columns, by position"
        )


def _first(candidates: Sequence[Sequence[str]], known: dict[str, str]) -> list[str]:
    """Return the first candidate whose names are all known, spelled as in the file."""
    found = next((names for names in candidates if all(name in known for name in names)), ())
    return [known[name] for name in found]


def _looks_like_names(fields: list[str]) -> bool:
    """Tell whether all fields are single words, and one is like gold_label or intentName, which no text would be."""
    words = [field.strip() for field in fields]
    odd = any(re.search(r"_|[a-z][A-Z]", word) for word in words)
    return len(words) > 1 and odd and all(_NAME.fullmatch(word) for word in words)


def _width(rows: list[list[str]]) -> int:
    """Return the most frequent number of fields; blank lines do not count."""
    counts = Counter(len(row) for row in rows if any(row)) or Counter(map(len, rows))
    return max(counts, key=lambda number: (counts[number], number))


def _is_count(fields: list[str]) -> bool:
    """Tell whether fields are 0, 1, 2, ..., which pandas writes in line 1 for columns without names."""
    numbers = fields[1:] if fields[:1] == [""] else fields  # the index column has no number
    return len(numbers) > 1 and all(field == str(place) for place, field in enumerate(numbers))


def _is_same(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _are_numbers(fields: Iterable[str]) -> bool:
    """Tell whether most non-empty fields are finite numbers."""
    filled = [field for field in fields if field.strip()]
    return sum(map(is_number, filled)) > len(filled) / 2


def _are_names(fields: list[str]) -> bool:
    """Tell whether the fields repeat a few values, as class names do, or are common labels."""
    comes_again = len(fields) >= _ENOUGH_ROWS and len(set(fields)) <= len(fields) / 2
    return comes_again or sum(map(is_label_word, fields)) > len(fields) / 2
