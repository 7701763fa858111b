"""The data formats: one record defines a format, and all other code consults it.

The evaluation of a format is a row of `cosent.evaluation.evaluators.TASKS`.

Shapes: K texts per example.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from cosent.data.shown import shown

DataFormat = str  # a key of FORMATS

NO_LABEL = object()  # stands for the missing label of an example that does not need one


class Example(NamedTuple):
    """K texts and at most one label; a tuple, because it is created twice as fast as a frozen dataclass.

    Attributes:
        texts: the two texts of a pair; a sentence; an anchor, its positive and any hard negatives.
        label: a pair's score, or the name of a text's class.
    """

    texts: tuple[str, ...]
    label: float | str | None = None


@dataclass(frozen=True)
class Format:
    """The definition of a data format: the form of an example and of a row.

    Attributes:
        noun: the name of the examples.
        wanted: the required columns, for messages.
        examples: makes examples from a row's values and its label; raises ValueError if the row is bad.
        label: type of the labels: float for scores, str for class names. None: no labels.
        text_columns: known combinations of names of the text columns, the likeliest first.
        label_columns: known names of the label column.
        text_places: positions of the texts in a row without names. None: every column that does not hold numbers.
        label_place: position of the label in such a row.
        most_texts: largest number of text columns.
        any_negatives: whether all further columns are negatives.
        num_views: how often a text is embedded if the loss compares two views of it.
        knows_matches: whether the texts of an example are known to match, and others through them.
    """

    noun: str
    wanted: str
    examples: Callable[[list[Any], Any], list[Example]]
    label: type[float] | type[str] | None
    text_columns: tuple[tuple[str, ...], ...]
    label_columns: tuple[str, ...] = ()
    text_places: tuple[int, ...] | None = None
    label_place: int | None = None
    most_texts: float = math.inf
    any_negatives: bool = False
    num_views: int = 1
    knows_matches: bool = False

    @property
    def least_texts(self) -> int:
        """The least number of text columns."""
        return len(self.text_places or (0,))

    def fits(self, num_texts: int) -> bool:
        """Tell whether the format can have this many text columns.

        Args:
            num_texts: number of named text columns.
        """
        return self.least_texts <= num_texts <= self.most_texts


def _pair(values: list[Any], label: Any) -> list[Example]:
    texts = to_text(values[0], "first text"), to_text(values[1], "second text")
    return [Example(texts, None if label is NO_LABEL else to_score(label))]


def _triplets(values: list[Any], label: Any) -> list[Example]:
    anchor, positive, *columns = values
    negatives = [text for value in columns for text in _listed(value) if text not in ("", None)]
    if not _listed(positive):
        raise ValueError("there is no positive")
    names = ["anchor", "positive", *(f"negative {i}" for i, _ in enumerate(negatives, start=1))]
    rows = ([anchor, text, *negatives] for text in _listed(positive))
    return [Example(tuple(to_text(text, name) for text, name in zip(row, names, strict=True))) for row in rows]


def _class(values: list[Any], label: Any) -> list[Example]:
    return [Example((to_text(values[0], "text"),), _to_class(label))]


def _sentences(values: list[Any], label: Any) -> list[Example]:
    return [Example((to_text(value, "text"),)) for value in values]


_PAIR_COLUMNS = (
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
_TRIPLET_COLUMNS = (
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "pos"),
    ("query", "title"),
    ("query", "answer"),
    ("anchor", "positives"),
    ("query", "positives"),
)
_TEXT_COLUMNS = (("text",), ("sentence",), ("query",), ("question",), ("content",), ("utterance",))

# If names fit several formats, the first one is chosen.
FORMATS: dict[DataFormat, Format] = {
    "pairs": Format(
        noun="pairs",
        wanted="the two texts and the label",
        examples=_pair,
        label=float,
        text_columns=_PAIR_COLUMNS,
        label_columns=(
            *("label", "labels", "score", "similarity", "similarity_score", "is_duplicate", "relatedness_score"),
        ),
        text_places=(0, 1),
        label_place=2,
        most_texts=2,
    ),
    "triplets": Format(
        noun="triplets",
        wanted="the anchor and the positive",
        examples=_triplets,
        label=None,
        text_columns=(*_TRIPLET_COLUMNS, *_PAIR_COLUMNS),
        text_places=(0, 1),
        any_negatives=True,
        knows_matches=True,
    ),
    "classes": Format(
        noun="texts with a class",
        wanted="the text and the class",
        examples=_class,
        label=str,
        text_columns=_TEXT_COLUMNS,
        label_columns=("label", "labels", "category", "class", "intent", "topic"),
        text_places=(0,),
        label_place=1,
        most_texts=1,
    ),
    "sentences": Format(
        noun="sentences",
        wanted="the texts",
        examples=_sentences,
        label=None,
        text_columns=(*_PAIR_COLUMNS, *_TRIPLET_COLUMNS, *_TEXT_COLUMNS),
        num_views=2,
    ),
}

# Text columns of all formats except triplets: in line 1 of a file, these words are names, not texts.
KNOWN_TEXT_COLUMNS = frozenset(name for names in (*_PAIR_COLUMNS, *_TEXT_COLUMNS) for name in names)


def to_text(value: Any, name: str) -> str:
    """Check that a value is a text, and strip it.

    Args:
        value: the value as read.
        name: what the value is, for the message.

    Raises:
        ValueError: if the value is not a text, is empty, or is not valid Unicode.
    """
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {shown(value)}, which is no text")
    text = value.strip()
    if not text:
        raise ValueError(f"the {name} is empty")
    if not text.isascii():  # this check needs no copy
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"the {name} is not UTF-8") from None
    return text


_HEXADECIMAL = re.compile(r"[+-]?0[xX][\da-fA-F]+")
# Notations of numbers that Python does not read, and what to do; no text fits two of them.
_NUMBERS = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"[+-]?\d*,\d+(e[+-]?\d+)?", "a number with a decimal comma; write 0.5 for 0,5"),
        (r"[+-]?\d[\d.,]* ?[%‰]", "a percentage; write 0.85 for 85%"),
        (r"\d+([.,]\d+)? ?[/⁄] ?\d+", "a fraction; write 0.8 for 4/5"),
        (r"\d{4}[-/.]\d\d?[-/.]\d\d?.*|\d\d?[-/.]\d\d?[-/.]\d{4}.*|\d\d?:\d\d.*", "a date or a time"),
        (r"""["'].*\d["']""", "a number in quotation marks; write it without them"),
        (r"[+-]?\d[\d_]*(\.[\d_]*)?", "a number with underscores; write it without them"),
        (_HEXADECIMAL.pattern, "a hexadecimal number; write it in decimal"),
    )
)
_TRUTH = "true false yes no t f y n 是 否 对 错"
_VERDICTS = "same different similar dissimilar related unrelated relevant irrelevant entailment neutral contradiction"
_LABEL_WORDS = frozenset(f"{_TRUTH} {_VERDICTS} match nomatch duplicate positive negative".split())


def is_number(text: str) -> bool:
    """Tell whether a text is a number, or a notation that Python does not read, such as 0,137, 85%, 4/5, 0x1 or $3.

    Numbers that are not finite count, too: in a column of labels, they are bad labels, and no texts.

    Args:
        text: the text of a field.
    """
    try:
        float(text)
        return True
    except ValueError:
        plain = unicodedata.normalize("NFKC", text.strip())
        if _HEXADECIMAL.fullmatch(plain):
            return True
        has_letters = any(map(str.isalpha, plain)) and not _NUMBERS[0][0].fullmatch(plain)
        return not has_letters and any(map(str.isdecimal, plain))


def is_label_word(text: str) -> bool:
    """Tell whether a text is a word used as a label, such as true, no or entailment.

    Args:
        text: the text of a field.
    """
    return text.strip().casefold().replace(" ", "") in _LABEL_WORDS


def _instead(value: Any) -> str:
    """Say what a label that is not a number looks like, and what to write instead; "" if unclear."""
    plain = unicodedata.normalize("NFKC", value[:100]).strip() if isinstance(value, str) else ""
    if plain.casefold() in _TRUTH.split():
        return " but looks like a truth value; write 1 and 0"
    looks = next((what for pattern, what in _NUMBERS if pattern.fullmatch(plain)), "")
    if not looks and plain and is_number(plain):
        looks = "one with other signs; write digits, with a full stop before decimals"
    return f" but looks like {looks}" if looks else ""


def to_score(value: Any) -> float:
    """Check that a value is a finite number, and convert it.

    Args:
        value: the value as read.

    Raises:
        ValueError: if the value is not a finite number.
    """
    try:
        if isinstance(value, str) and "_" in value:
            raise ValueError  # Python would read 1_0 as 10
        label = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"label {shown(value)} is no number{_instead(value)}") from None
    if not math.isfinite(label):
        raise ValueError(f"label {shown(value)} is not finite")
    return label


def _to_class(value: Any) -> str:
    is_missing = isinstance(value, float) and math.isnan(value)
    if is_missing or not isinstance(value, (str, int, float, Decimal)):
        raise ValueError(f"the class is {shown(value)}")
    if isinstance(value, bool):
        value = str(value).lower()  # as in JSON and in text
    elif not isinstance(value, str) and value == value // 1:
        value = f"{value:.0f}"  # 1.0, which some writers make of 1
    return to_text(str(value), "class")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
