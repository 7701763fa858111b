"""What the fields of a row mean: a scored pair, a sentence, an anchor with its positive and negatives, or a class.

Nothing is taken for granted that could silently be something else: where names or fields leave a doubt, the error says
which parameters settle it.

Shapes: K texts an example.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

from cosent.data.formats import FORMATS, NO_LABEL, DataFormat, Example, Format, to_score, to_text
from cosent.data.rows import Row

_LIKELIEST = next(iter(FORMATS))  # what names say that fit several formats

_NEGATIVE = re.compile(r"neg(ative)?s?(_?title)?_?\d*")
_ID = re.compile(r"(.*_)?(id|idx|index|guid|uid|qid)\d*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_ENOUGH_ROWS = 8  # to tell whether values come again


@dataclass(frozen=True)
class Layout:
    """Where a file keeps what, and what it means.

    Attributes:
        data_format: what a row means.
        texts: positions or names of the texts.
        label: position or name of the label, where there is one.
        any_negatives: further fields, or further names like "negative_2", are negatives, as many as a row has.
        width: fields that a row without names needs.
        max_width: fields that such a row may have.
        is_header: whether the first row holds names.
        needs_label: whether a pair's label has to be there; if not, an empty one is none.
    """

    data_format: DataFormat
    texts: Sequence[int] | Sequence[str]
    label: int | str | None = None
    any_negatives: bool = False
    width: int = 0
    max_width: float = math.inf
    is_header: bool = False
    needs_label: bool = True

    def examples(self, row: Row) -> list[Example]:
        """What a row holds.

        Args:
            row: as its format gives it.

        Returns:
            An example; for sentences one for each text column, for triplets one for each positive.

        Raises:
            ValueError: saying what is wrong with the row.
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
        """Picks the fields of a pair without names, by far the most frequent kind of row in files of millions."""
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
            raise ValueError(f"lacks {', '.join(repr(name) for name in names if name not in row)}")
        further = [name for name in row if _NEGATIVE.fullmatch(_plain(name))] if self.any_negatives else []
        label = None if self.label is None else row[str(self.label)]
        return [row[str(name)] for name in [*self.texts, *further]], label


@dataclass(frozen=True)
class Columns:
    """How a file is to be understood, as far as somebody said so.

    Attributes:
        data_format: what a row means; "auto" looks at names and fields.
        texts: the text columns, by name or, in a file without a header, by position from 0.
        label: the label's column, likewise.
        likely: what rows of two fields without names mean, which "auto" cannot tell.
        needs_label: whether pairs without a label are no pairs; if not, further columns are not looked at.
    """

    data_format: DataFormat = "auto"
    texts: tuple[str, ...] | None = None
    label: str | None = None
    likely: DataFormat | None = None
    needs_label: bool = True

    def __post_init__(self) -> None:
        if self.data_format not in ("auto", *FORMATS):
            raise ValueError(f"data_format must be auto or one of {', '.join(FORMATS)}, got {self.data_format!r}")

    def find(self, rows: Sequence[Row]) -> Layout | None:
        """Find out how a file is laid out.

        Args:
            rows: the first rows of the file.

        Returns:
            The layout; None where no row has the names that are looked for.

        Raises:
            ValueError: if the rows leave a doubt about what they mean, or declared columns do not fit them.
        """
        lists = [row for row in rows if isinstance(row, list)]
        if lists:
            return self._of_lists(lists)
        named = (self._of_names(list(row)) for row in rows if isinstance(row, dict))
        return next((layout for layout in named if layout is not None), None)

    def not_found(self, names: Sequence[str]) -> str:
        """Say that a row's names are not those that are looked for."""
        wanted = FORMATS[self.data_format].wanted if self.data_format in FORMATS else "texts and labels"
        lacking = [name for name in self._declared if name not in names]
        problem = (
            f"has no column {', '.join(map(repr, lacking))} but {', '.join(map(repr, names))}"
            if lacking
            else f"has the columns {', '.join(map(repr, names))}, which do not say where {wanted} are"
        )
        return f"{problem}; name them with text_columns and label_column"

    @property
    def _declared(self) -> list[str]:
        return [*(self.texts or ()), *([] if self.label is None else [self.label])]

    def _of_names(self, names: list[str]) -> Layout | None:
        """A layout by name: of the format that is wanted, else of the first that the names have."""
        if not all(name in names for name in self._declared):
            return None
        known = {_plain(name): name for name in names}
        for data_format in FORMATS if self.data_format == "auto" else (self.data_format,):
            kind = FORMATS[data_format]
            texts, labels = self._names(kind, known)
            if texts and (labels or kind.label is None or not self.needs_label):
                any_negatives = kind.any_negatives and self.texts is None
                # two declared texts may still be a pair whose label nobody named
                doubtful = self.texts is None or kind.any_negatives and len(self.texts) == 2
                if self.data_format == "auto" and data_format != _LIKELIEST and doubtful:
                    self._check_left_over(data_format, [*texts, *labels], names)
                label = labels[0] if labels else None
                return Layout(data_format, texts, label, any_negatives, needs_label=self.needs_label)
        return None

    def _names(self, kind: Format, known: dict[str, str]) -> tuple[list[str], list[str]]:
        """The names of the texts and of the label that a format would have; empty where there are none."""
        chosen = list(self.texts) if self.texts is not None else _first(kind.text_columns, known)
        if not kind.fits(len(chosen)) or kind.any_negatives and self.label is not None:
            return [], []
        declared = [self.label] if self.label is not None and kind.label is not None else []
        return chosen, declared or _first([(name,) for name in kind.label_columns], known)

    def _check_left_over(self, data_format: DataFormat, found: list[str], names: list[str]) -> None:
        """Refuse to guess where a column is left over that may be a label or another text."""
        may_be = [name for name in names if name not in found and not _ID.fullmatch(_plain(name))]
        if FORMATS[data_format].any_negatives:
            may_be = [name for name in may_be if not _NEGATIVE.fullmatch(_plain(name))]
        if may_be:
            raise ValueError(
                f"has the columns {', '.join(map(repr, names))}: could be {data_format}, were it not for "
                f"{', '.join(map(repr, may_be))}. Say what it is with data_format='{data_format}', or "
                "name the columns with text_columns and label_column"
            )

    def _of_lists(self, rows: list[list[str]]) -> Layout:
        if self._declared and all(name.isdecimal() for name in self._declared):
            return self._of_positions()
        header = rows[0]
        layout = self._of_names(header)
        if layout is not None:
            return _in_header(layout, header)
        if self._declared or _looks_like_names(header):
            raise ValueError(f"line 1 {self.not_found(header)}")
        return self._of_fields(rows)

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
        """A layout of rows without names, in the order that is documented."""
        counts = Counter(map(len, rows))
        width = max(counts, key=lambda number: (counts[number], number))
        # the first row may be a header of unknown names: it is not asked
        whole = [row for row in rows if len(row) == width]
        body = [row for row in rows[1:] if len(row) == width] or whole
        # but for a column that is empty below it
        columns = ([row[i] for row in (body if any(row[i].strip() for row in body) else whole)] for i in range(width))
        numbers = [i for i, fields in enumerate(columns) if _are_numbers(fields)]
        names = [column for column in range(1, width) if _are_names(row[column] for row in body)]
        data_format = self._guess(width, numbers, names) if self.data_format == "auto" else self.data_format
        kind = FORMATS[data_format]
        no_numbers = [column for column in range(width) if column not in numbers or width == 1]
        texts = no_numbers if kind.text_places is None else list(kind.text_places)
        if not texts or width > 1 and set(texts) & set(numbers):
            raise ValueError(
                f"has mostly numbers in the columns {', '.join(map(str, numbers))}, counted from 0; say where "
                f"{kind.wanted} are with text_columns and label_column, by the names in line 1, or by "
                "position if there are none"
            )
        if kind.any_negatives:
            return Layout(data_format, texts, any_negatives=True, width=kind.least_texts)
        place = kind.label_place
        if not self.needs_label:
            label = place if place is not None and place < width and place in numbers else None
            return Layout(data_format, texts, label, width=kind.least_texts, needs_label=False)
        width = width if place is None else place + 1
        return Layout(data_format, texts, place, width=width, max_width=width)

    def _guess(self, width: int, numbers: list[int], names: list[int]) -> DataFormat:
        """What rows mean, by how many fields they have and which of those are numbers, or a few names."""
        if width == 1:
            return "sentences"
        if width == 2:
            if self.likely is None or self.likely == "triplets" and names:
                raise ValueError(
                    "has two columns without names: a text and its class, or an anchor and its positive? Say which "
                    "with data_format='classes' or data_format='triplets'"
                )
            return self.likely
        if width == 3 and 2 in numbers:
            return "pairs"
        if numbers:
            raise ValueError(
                f"has {width} columns without names, of which {', '.join(map(str, numbers))} (from 0) hold numbers; "
                "say where the texts and the label are, by position, with text_columns and label_column"
            )
        if names:
            raise ValueError(
                f"has the same few values again and again in the columns {', '.join(map(str, names))} (from 0): labels "
                "or negatives? Say which with data_format='triplets', or with text_columns and label_column"
            )
        return "triplets"


def _in_header(layout: Layout, header: list[str]) -> Layout:
    """A layout by position, from one by name and the row that holds the names."""
    negatives = [name for name in header if _NEGATIVE.fullmatch(_plain(name))] if layout.any_negatives else []
    places = [header.index(str(name)) for name in [*layout.texts, *negatives]]
    label = None if layout.label is None else header.index(str(layout.label))
    # where a row has fewer negatives, its last fields may be missing
    kind = FORMATS[layout.data_format]
    width = max(places[: kind.least_texts]) + 1 if kind.any_negatives else len(header)
    return replace(
        layout, texts=places, label=label, any_negatives=False, width=width, max_width=len(header), is_header=True
    )


def _first(candidates: Sequence[Sequence[str]], known: dict[str, str]) -> list[str]:
    """The first candidate names that are all known, as they are written in the file."""
    found = next((names for names in candidates if all(name in known for name in names)), ())
    return [known[name] for name in found]


def _looks_like_names(fields: list[str]) -> bool:
    """Whether fields are all single words, one of them like gold_label or intentName, which no text would hold."""
    words = [field.strip() for field in fields]
    odd = any(re.search(r"_|[a-z][A-Z]", word) for word in words)
    return len(words) > 1 and odd and all(_NAME.fullmatch(word) for word in words)


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _are_numbers(fields: Iterable[str]) -> bool:
    """Whether most fields that hold something hold a finite number."""
    filled = [field for field in fields if field.strip()]
    return sum(map(_is_number, filled)) > len(filled) / 2


def _are_names(fields: Iterable[str]) -> bool:
    """Whether fields are a few values again and again, as names of classes are."""
    values = list(fields)
    return len(values) >= _ENOUGH_ROWS and len(set(values)) <= len(values) / 2


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
