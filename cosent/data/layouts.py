"""What the fields of a row mean: a scored pair, a sentence, an anchor with its positive and negatives, or a class.

Nothing is taken for granted that could silently be something else: where names or fields leave a doubt, the error says
which flags settle it.

Shapes: K texts an example.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from cosent.data.rows import Row

DataFormat = Literal["pairs", "sentences", "triplets", "classes"]

PAIR_COLUMNS = (
    ("query1", "query2"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("sentence_1", "sentence_2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("q1", "q2"),
    ("source", "target"),
    ("query", "title"),
)
SCORE_COLUMNS = ("label", "labels", "score", "similarity", "similarity_score", "is_duplicate", "relatedness_score")
TRIPLET_COLUMNS = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "pos"),
    ("query", "title"),
    ("query", "answer"),
    ("anchor", "positives"),
    ("query", "positives"),
)
TEXT_COLUMNS = ("text", "sentence", "query", "question", "content", "utterance")
CLASS_COLUMNS = ("label", "labels", "category", "class", "intent", "topic")

_NEGATIVE = re.compile(r"neg(ative)?s?(_?title)?_?\d*")
_ID = re.compile(r"(.*_)?(id|idx|index|guid|uid|qid)\d*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
_WANTED = {
    "pairs": "the two texts and the label",
    "sentences": "the texts",
    "triplets": "the anchor and the positive",
    "classes": "the text and the class",
}
_FOR_EVAL = " (--eval_text_columns and --eval_label_column for eval and test data)"
_ENOUGH_ROWS = 8  # to tell whether values come again
_TEXTS_OF = {"pairs": (2, 2), "classes": (1, 1), "triplets": (2, math.inf), "sentences": (1, math.inf)}


class Example(NamedTuple):
    """K texts and at most one label. A tuple, as it is made twice as fast as a frozen dataclass.

    Attributes:
        texts: a pair's two; a sentence; an anchor, its positive and its hard negatives, if any.
        label: a pair's score, or the name of a text's class.
    """

    texts: tuple[str, ...]
    label: float | str | None = None


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
            return [Example((_to_text(first, "first text"), _to_text(second, "second text")), _to_score(score))]
        values, label = self._list_fields(row) if isinstance(row, list) else self._named_fields(row)
        if self.data_format == "pairs":
            texts = _to_texts(values, ["first text", "second text"])
            has_label = self.needs_label or label is not None and str(label).strip() != ""
            return [Example(texts, _to_score(label) if has_label else None)]
        if self.data_format == "classes":
            return [Example(_to_texts(values, ["text"]), _to_class(label))]
        if self.data_format == "sentences":
            return [Example(_to_texts([value], ["text"])) for value in values]
        anchor, positive, *negatives = values
        negatives = [text for value in negatives for text in _listed(value) if text not in ("", None)]
        names = ["anchor", "positive", *(f"negative {i}" for i, _ in enumerate(negatives, start=1))]
        if not _listed(positive):
            raise ValueError("there is no positive")
        return [Example(_to_texts([anchor, text, *negatives], names)) for text in _listed(positive)]

    @cached_property
    def _plain_pair(self) -> Callable[[list[str]], tuple[str, str, str]] | None:
        """Picks the fields of a pair without names, by far the most frequent kind of row in files of millions."""
        places = [*self.texts, self.label]
        is_plain = self.data_format == "pairs" and len(places) == 3 and all(isinstance(p, int) for p in places)
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

    data_format: DataFormat | Literal["auto"] = "auto"
    texts: tuple[str, ...] | None = None
    label: str | None = None
    likely: DataFormat | None = None
    needs_label: bool = True

    def __post_init__(self) -> None:
        if self.data_format not in ("auto", *_TEXTS_OF):
            raise ValueError(f"data_format must be auto or one of {', '.join(_TEXTS_OF)}, got {self.data_format!r}")

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
        wanted = _WANTED.get(self.data_format, "texts and labels")
        lacking = [name for name in self._declared if name not in names]
        problem = (
            f"has no column {', '.join(map(repr, lacking))} but {', '.join(map(repr, names))}"
            if lacking
            else f"has the columns {', '.join(map(repr, names))}, which do not say where {wanted} are"
        )
        return f"{problem}; name them with --text_columns and --label_column{_FOR_EVAL}"

    @property
    def _declared(self) -> list[str]:
        return [*(self.texts or ()), *([] if self.label is None else [self.label])]

    def _of_names(self, names: list[str]) -> Layout | None:
        """A layout by name: of the format that is wanted, else of the first that the names have."""
        if not all(name in names for name in self._declared):
            return None
        known = {_plain(name): name for name in names}
        formats: tuple[DataFormat, ...] = ("pairs", "triplets", "classes", "sentences")
        for data_format in formats if self.data_format == "auto" else (self.data_format,):
            texts, labels = self._names(data_format, known)
            found = [*texts, *labels]
            if texts and (labels or data_format in ("triplets", "sentences") or not self.needs_label):
                any_negatives = data_format == "triplets" and self.texts is None
                # two declared texts may still be a pair whose label nobody named
                doubtful = self.texts is None or data_format == "triplets" and len(self.texts) == 2
                if self.data_format == "auto" and data_format != "pairs" and doubtful:
                    self._check_left_over(data_format, found, names)
                label = labels[0] if labels else None
                return Layout(data_format, texts, label, any_negatives, needs_label=self.needs_label)
        return None

    def _names(self, data_format: DataFormat, known: dict[str, str]) -> tuple[list[str], list[str]]:
        """The names of the texts and of the label that a format would have; empty where there are none."""
        pair, triplet = _first(PAIR_COLUMNS, known), _first(TRIPLET_COLUMNS, known)
        single = _first([(name,) for name in TEXT_COLUMNS], known)
        texts = {"pairs": pair, "triplets": triplet or pair, "classes": single, "sentences": pair or triplet or single}
        labels = {
            "pairs": _first([(name,) for name in SCORE_COLUMNS], known),
            "classes": _first([(name,) for name in CLASS_COLUMNS], known),
        }
        chosen = list(self.texts) if self.texts is not None else texts[data_format]
        if not _fits(data_format, len(chosen)) or data_format == "triplets" and self.label is not None:
            return [], []
        declared = [self.label] if self.label is not None and data_format in labels else []
        return chosen, declared or labels.get(data_format, [])

    def _check_left_over(self, data_format: DataFormat, found: list[str], names: list[str]) -> None:
        """Refuse to guess where a column is left over that may be a label or another text."""
        may_be = [name for name in names if name not in found and not _ID.fullmatch(_plain(name))]
        left = [name for name in may_be if data_format != "triplets" or not _NEGATIVE.fullmatch(_plain(name))]
        if left:
            raise ValueError(
                f"has the columns {', '.join(map(repr, names))}: could be {data_format}, were it not for "
                f"{', '.join(map(repr, left))}. Say what it is with --data_format {data_format} (--eval_data_format "
                "for eval data), or name the columns with --text_columns and --label_column"
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
            single: DataFormat = "sentences" if self.label is None else "classes"
            data_format = "pairs" if texts is None or len(texts) == 2 else "triplets" if len(texts) > 2 else single
        texts = texts or ([0, 1] if data_format in ("pairs", "triplets") else [0])
        if not _fits(data_format, len(texts)):
            raise ValueError(f"{data_format} do not have {len(texts)} text columns; see --text_columns")
        default = {"pairs": 2, "classes": 1}.get(data_format) if self.needs_label else None
        takes_label = data_format in ("pairs", "classes")
        label = int(self.label) if self.label is not None and takes_label else default
        needed = texts[:2] if data_format == "triplets" else texts
        width = max([*needed, *([] if label is None else [label])]) + 1
        return Layout(data_format, texts, label, width=width, needs_label=self.needs_label)

    def _of_fields(self, rows: list[list[str]]) -> Layout:
        """A layout of rows without names, in the order that is documented."""
        counts = Counter(map(len, rows))
        width = max(counts, key=lambda number: (counts[number], number))
        # the first row may be a header of unknown names: it is not asked
        body = [row for row in rows[1:] if len(row) == width] or [row for row in rows if len(row) == width]
        numbers = [column for column in range(width) if _are_numbers(row[column] for row in body)]
        names = [column for column in range(1, width) if _are_names(row[column] for row in body)]
        data_format = self._guess(width, numbers, names) if self.data_format == "auto" else self.data_format
        texts = {"pairs": [0, 1], "triplets": [0, 1], "classes": [0]}.get(
            data_format, [column for column in range(width) if column not in numbers or width == 1]
        )
        if not texts or width > 1 and set(texts) & set(numbers):
            raise ValueError(
                f"has mostly numbers in the columns {', '.join(map(str, numbers))}, counted from 0; say where "
                f"{_WANTED[data_format]} are with --text_columns and --label_column, by the names in line 1, or by "
                f"position if there are none{_FOR_EVAL}"
            )
        if data_format == "triplets":
            return Layout("triplets", texts, any_negatives=True, width=2)
        if data_format == "pairs" and not self.needs_label:
            return Layout("pairs", texts, 2 if width > 2 and 2 in numbers else None, width=2, needs_label=False)
        width = {"pairs": 3, "classes": 2}.get(data_format, width)
        return Layout(data_format, texts, {"pairs": 2, "classes": 1}.get(data_format), width=width, max_width=width)

    def _guess(self, width: int, numbers: list[int], names: list[int]) -> DataFormat:
        """What rows mean, by how many fields they have and which of those are numbers, or a few names."""
        if width == 1:
            return "sentences"
        if width == 2:
            if self.likely is None or self.likely == "triplets" and names:
                raise ValueError(
                    "has two columns without names: a text and its class, or an anchor and its positive? Say which "
                    "with --data_format classes or --data_format triplets (--eval_data_format for eval data)"
                )
            return self.likely
        if width == 3 and 2 in numbers:
            return "pairs"
        if numbers:
            raise ValueError(
                f"has {width} columns without names, of which {', '.join(map(str, numbers))} (from 0) hold numbers; "
                "say where the texts and the label are, by position, with --text_columns and --label_column"
            )
        if names:
            raise ValueError(
                f"has the same few values again and again in the columns {', '.join(map(str, names))} (from 0): labels "
                "or negatives? Say which with --data_format triplets, or with --text_columns and --label_column"
            )
        return "triplets"


def _in_header(layout: Layout, header: list[str]) -> Layout:
    """A layout by position, from one by name and the row that holds the names."""
    negatives = [name for name in header if _NEGATIVE.fullmatch(_plain(name))] if layout.any_negatives else []
    places = [header.index(str(name)) for name in [*layout.texts, *negatives]]
    label = None if layout.label is None else header.index(str(layout.label))
    # where a row has fewer negatives, its last fields may be missing
    width = max(places[:2]) + 1 if layout.data_format == "triplets" else len(header)
    return replace(
        layout, texts=places, label=label, any_negatives=False, width=width, max_width=len(header), is_header=True
    )


def _first(candidates: Sequence[Sequence[str]], known: dict[str, str]) -> list[str]:
    """The first candidate names that are all known, as they are written in the file."""
    found = next((names for names in candidates if all(name in known for name in names)), ())
    return [known[name] for name in found]


def _fits(data_format: DataFormat, num_texts: int) -> bool:
    low, high = _TEXTS_OF[data_format]
    return low <= num_texts <= high


def _looks_like_names(fields: list[str]) -> bool:
    """Whether fields are all single words, one of them like gold_label or intentName, which no text would hold."""
    words = [field.strip() for field in fields]
    odd = any(re.search(r"_|[a-z][A-Z]", word) for word in words)
    return len(words) > 1 and odd and all(_NAME.fullmatch(word) for word in words)


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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


def _to_texts(values: list[Any], names: list[str]) -> tuple[str, ...]:
    return tuple(_to_text(value, name) for value, name in zip(values, names, strict=True))


def _to_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {value!r}, which is no text")
    text = value.strip()
    if not text:
        raise ValueError(f"the {name} is empty")
    if not text.isascii():  # which is told without a copy
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the {name} is not UTF-8") from None
    return text


def _to_score(value: Any) -> float:
    try:
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"label {value!r} is no number") from None
    if not math.isfinite(label):
        raise ValueError(f"label {value!r} is not finite")
    return label


def _to_class(value: Any) -> str:
    if value is None or isinstance(value, float) and math.isnan(value):
        raise ValueError(f"the class is {value!r}")
    return _to_text(str(value), "class")
