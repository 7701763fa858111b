"""The formats of data: one record says all that a format is; everything else asks it.

An evaluation of a format is a row of `cosent.evaluation.evaluators.TASKS`.

Shapes: K texts an example.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

DataFormat = str  # a key of FORMATS

NO_LABEL = object()  # what stands for the label of an example that need not have one


class Example(NamedTuple):
    """K texts and at most one label. A tuple, as it is made twice as fast as a frozen dataclass.

    Attributes:
        texts: a pair's two; a sentence; an anchor, its positive and its hard negatives, if any.
        label: a pair's score, or the name of a text's class.
    """

    texts: tuple[str, ...]
    label: float | str | None = None


@dataclass(frozen=True)
class Format:
    """What an example is, and how rows hold it.

    Attributes:
        noun: what examples are called.
        wanted: what columns have to be found, for messages.
        examples: of a row's values and its label; raises ValueError, saying what is wrong with the row.
        label: type of labels: float for scores, str for names of classes. None: there are none.
        text_columns: names that text columns may have together, the likeliest first.
        label_columns: names that the label's column may have.
        text_places: of the texts in a row without names. None: every column that holds no numbers.
        label_place: of the label in such a row.
        most_texts: text columns at most.
        any_negatives: whether further columns are negatives, as many as a row has.
        num_views: how often a text is embedded where a loss compares two views of it.
        knows_matches: whether the texts of an example are known to match, and through others further texts.
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
        """Text columns at least."""
        return len(self.text_places or (0,))

    def fits(self, num_texts: int) -> bool:
        """Tell whether an example can come from so many text columns.

        Args:
            num_texts: text columns that were named.
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

# Names that fit several formats are taken for the first of them.
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

# Texts' columns of any format but triplets: in line 1 of a file, these are names and no texts.
KNOWN_TEXT_COLUMNS = frozenset(name for names in (*_PAIR_COLUMNS, *_TEXT_COLUMNS) for name in names)


def to_text(value: Any, name: str) -> str:
    """Insist on a text, and strip it.

    Args:
        value: as read.
        name: what it is, for the message.

    Raises:
        ValueError: if it is none, is empty, or is no Unicode.
    """
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


def to_score(value: Any) -> float:
    """Insist on a finite number.

    Args:
        value: as read.

    Raises:
        ValueError: if it is none.
    """
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
    return to_text(str(value), "class")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
