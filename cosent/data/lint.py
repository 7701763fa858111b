"""Checks of a data file before training: repetitions, contradictions, damaged texts.

Shapes: n examples in a file, K texts in each, N texts in all of them.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosent.data.clues import TAB, TAB_SEPARATED, to_csv
from cosent.data.formats import FORMATS, DataFormat, Example
from cosent.data.graphs import components
from cosent.data.positives import is_match
from cosent.data.readers import ExampleReader, read_all
from cosent.data.rows import suffix_of
from cosent.data.sources import name_of

if TYPE_CHECKING:
    from cosent.data.datasets import Records  # which imports torch

SHOWN_EXAMPLES = 3
_SHOWN_CHARACTERS = 60

_OF_NUMBERS = re.compile(r"(?<=\d)[.,:/-](?=\d)|(?<!\w)-(?=\d)")
_INVISIBLE = re.compile("[\ufeff\u200b-\u200f\u202a-\u202e\u2060-\u2064]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# UTF-8 that was read as Latin-1 or Windows-1252, and well-known results of misread GBK
_MISREAD = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u2122]+|锟斤拷|烫烫烫|屯屯屯")
_QUOTED = re.compile('"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Finding:
    """A problem found in the data.

    Attributes:
        what: the problem.
        count: number of examples that have it.
        total: number of examples checked.
        effect: its effect on results.
        examples: the first few, with their line numbers.
    """

    what: str
    count: int
    total: int
    effect: str
    examples: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,} of {self.total:,} ({self.count / max(self.total, 1):.1%})"


@dataclass
class Split:
    """A file's examples and their line numbers.

    Attributes:
        path: the file.
        data_format: the data format.
        unit: the unit of the places, "line" or "row".
        places: (n,) line or row numbers of the examples.
        examples: (n,) the examples.
    """

    path: str
    data_format: DataFormat
    unit: str
    places: list[int]
    examples: list[Example]

    @classmethod
    def read(cls, *readers: ExampleReader) -> "Split":
        """Read the examples of a source and their places; those of a source in several parts are numbered."""
        places, examples = [], []
        for number, example in enumerate(read_all(readers), start=1):
            places.append(readers[0].place if len(readers) == 1 else number)
            examples.append(example)
        data_format = readers[0].data_format
        assert data_format is not None  # otherwise there was no row, which is an error
        unit = readers[0].unit if len(readers) == 1 else "example"
        return cls(name_of([reader.source for reader in readers]), data_format, unit, places, examples)

    @classmethod
    def of(cls, records: "Records") -> "Split":
        """Use examples that were read already; their places are then their numbers."""
        labels = records.labels.tolist() if "label" in records.rows.column_names else [None] * len(records)
        examples = [Example(tuple(texts), label) for texts, label in zip(records.texts, labels, strict=True)]
        places = list(range(1, len(examples) + 1))
        return cls(records.name, records.data_format, "example", places, examples)

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def labels(self) -> NDArray:
        """(n,) scores of pairs or class names."""
        return np.array([example.label for example in self.examples])

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """(n,) numbers of texts, K of each example."""
        return np.array([len(example.texts) for example in self.examples])

    def show(self, *numbers: int) -> str:
        """Format examples with their line numbers, on one line."""
        shown = []
        for number in numbers:
            example = self.examples[number]
            label = "" if example.label is None else f" -> {_label(example.label)}"
            shown.append(f"{self.unit} {self.places[number]}: {' | '.join(map(_shorten, example.texts))}{label}")
        return "; ".join(shown)


@dataclass
class TextIds:
    """Assigns ids to texts, equal for texts with equal keys."""

    key: Callable[[str], str] = str
    known: dict[str, int] = field(default_factory=dict)

    def of(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Return the (N,) ids of texts."""
        known = self.known
        return np.array([known.setdefault(self.key(text), len(known)) for text in texts], dtype=np.int64)


def normalized(text: str) -> str:
    """Normalise what seldom carries meaning: case, width, the encoding of accents, spaces and punctuation.

    Punctuation within and before numbers stays, and so do symbols (C++, $, emoji). If nothing is left, only width and
    case are normalised.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    if plain.isalnum():
        return plain
    kept = {found.start() for found in _OF_NUMBERS.finditer(plain)}
    letters = (c for i, c in enumerate(plain) if i in kept or unicodedata.category(c)[0] in "LMNS")
    return "".join(letters) or plain.strip()


def check_split(split: Split, positive_label_min: float | None = None) -> list[Finding]:
    """Check one file for problems.

    Args:
        split: the examples of the file.
        positive_label_min: the lowest graded label of a match.

    Returns:
        A finding for each kind of problem present.
    """
    ids = TextIds().of(text for example in split.examples for text in example.texts)
    findings = [_repeated(split, ids), *_damaged(split), _quoted(split)]
    label = FORMATS[split.data_format].label
    if label is float:
        pairs = ids.reshape(-1, 2)
        matches = is_match(split.labels, positive_label_min)
        findings += [
            _swapped(split, pairs),
            _other_labels(split, np.sort(pairs, axis=1)),
            _identical_sides(split, pairs, matches),
        ]
        if matches is not None:
            findings.append(_contradictions(split, pairs, matches))
    if label is str:
        findings.append(_other_labels(split, ids.reshape(-1, 1)))
    if label is not None and len(np.unique(split.labels)) == 1:
        effect = "there is nothing to tell apart: no loss learns from it, and no metric is defined on it"
        findings.append(Finding("every label is the same", len(split), len(split), effect))
    return [finding for finding in findings if finding.count]


def _repeated(split: Split, ids: NDArray[np.int64]) -> Finding:
    first_at: dict[tuple, int] = {}
    again = []
    ends = np.cumsum(split.widths)
    for number, (start, end) in enumerate(zip(ends - split.widths, ends, strict=True)):
        row = (*ids[start:end].tolist(), split.examples[number].label)
        if first_at.setdefault(row, number) != number:
            again.append((first_at[row], number))
    effect = "they count more often than others, in training and in every figure"
    examples = [split.show(*numbers) for numbers in again[:SHOWN_EXAMPLES]]
    return Finding("examples that stand there again", len(again), len(split), effect, examples)


def _swapped(split: Split, pairs: NDArray[np.int64]) -> Finding:
    size = pairs.max() + 1
    ordered, either = pairs @ [size, 1], np.sort(pairs, axis=1) @ [size, 1]
    _, first, group = np.unique(either, return_index=True, return_inverse=True)
    found = np.flatnonzero(ordered != ordered[first[group]])
    effect = (
        "a cosine does not tell sides apart: they are repetitions, and leak where only one side goes to another file"
    )
    examples = [split.show(int(first[group[n]]), int(n)) for n in found[:SHOWN_EXAMPLES]]
    return Finding("pairs that stand there with their sides swapped", len(found), len(split), effect, examples)


def _other_labels(split: Split, keys: NDArray[np.int64]) -> Finding:
    """Find rows whose texts, in any order, also occur with another label."""
    flat = keys @ [keys.max() + 1, 1] if keys.shape[1] == 2 else keys[:, 0]
    _, group = np.unique(flat, return_inverse=True)
    _, value = np.unique(split.labels, return_inverse=True)
    kinds, counts = np.unique(np.stack([group, value], axis=1), axis=0, return_counts=True)
    variants = np.bincount(kinds[:, 0])
    most = np.zeros(len(variants), dtype=np.int64)
    np.maximum.at(most, kinds[:, 0], counts)
    wrong = int((np.bincount(group) - most)[variants > 1].sum())
    found = np.flatnonzero(variants[group] > 1)
    order = found[np.argsort(group[found], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    effect = f"no model can be right about {wrong:,} of them; in training they pull both ways"
    examples = [split.show(*numbers) for numbers in groups[:SHOWN_EXAMPLES] if len(numbers)]
    what = "the same pair with different labels" if keys.shape[1] == 2 else "the same text with different classes"
    return Finding(what, len(found), len(split), effect, examples)


def _identical_sides(split: Split, pairs: NDArray[np.int64], matches: NDArray[np.bool_] | None) -> Finding:
    same = pairs[:, 0] == pairs[:, 1]
    found = np.flatnonzero(same)
    wrong = "" if matches is None else f"; {int(np.sum(same & ~matches)):,} of them are labelled as no match"
    effect = f"their cosine is 1 whatever the model, so they teach and measure nothing{wrong}"
    examples = [split.show(int(n)) for n in found[:SHOWN_EXAMPLES]]
    return Finding("pairs of one and the same text", len(found), len(split), effect, examples)


def _contradictions(split: Split, pairs: NDArray[np.int64], matches: NDArray[np.bool_]) -> Finding:
    """Find pairs labelled as no match whose texts are connected by matching pairs: A = B, B = C, yet A != C."""
    size = int(pairs.max()) + 1
    component = components(pairs[matches, 0], pairs[matches, 1], size)
    joined = component[pairs[:, 0]] == component[pairs[:, 1]]
    key = np.sort(pairs, axis=1) @ [size, 1]
    by_itself = np.isin(key, key[matches]) | (pairs[:, 0] == pairs[:, 1])  # covered by other findings
    found = np.flatnonzero(joined & ~matches & ~by_itself)
    neighbors: dict[int, list[tuple[int, int]]] = {}
    for number in np.flatnonzero(
        matches & np.isin(component[pairs[:, 0]], component[pairs[found[:SHOWN_EXAMPLES], 0]])
    ):
        for one, other in (pairs[number], pairs[number][::-1]):
            neighbors.setdefault(int(one), []).append((int(other), int(number)))
    examples = [split.show(int(n), *_chain(neighbors, *map(int, pairs[n]))) for n in found[:SHOWN_EXAMPLES]]
    effect = "some label on the chain is wrong, or matching means more than one thing; a ranking cannot satisfy all"
    return Finding(
        "pairs that do not match, though a chain of matches joins them", len(found), len(split), effect, examples
    )


def _chain(neighbors: dict[int, list[tuple[int, int]]], start: int, end: int) -> list[int]:
    """Find the shortest chain of pairs from one text to another."""
    came: dict[int, tuple[int, int]] = {start: (start, -1)}
    waiting = deque([start])
    while end not in came:
        text = waiting.popleft()
        for other, number in neighbors[text]:
            if other not in came:
                came[other] = (text, number)
                waiting.append(other)
    chain = []
    while end != start:
        end, number = came[end]
        chain.append(number)
    return chain[::-1]


def _damaged(split: Split) -> list[Finding]:
    """Find texts with characters that nobody typed."""
    kinds: list[tuple[str, Callable[[str], bool], str]] = [
        (
            "texts with invisible characters (byte order marks, zero-width, direction)",
            lambda text: bool(_INVISIBLE.search(text)),
            "equal texts differ by what nobody sees, and tokenise differently",
        ),
        (
            "texts with replacement characters (U+FFFD)",
            lambda text: "\ufffd" in text,
            "something was lost when the file was decoded: read it again in its own encoding",
        ),
        (
            "texts with control characters",
            lambda text: bool(_CONTROL.search(text)),
            "mostly left over from an export; a tokenizer drops or splits at them",
        ),
        (
            "texts that look misread (UTF-8 as Latin-1, or GBK)",
            _is_misread,
            "the model sees other letters than a reader would: read the file again in its own encoding",
        ),
    ]
    findings = []
    for what, is_damaged, effect in kinds:
        found = [n for n, example in enumerate(split.examples) if any(map(is_damaged, example.texts))]
        findings.append(Finding(what, len(found), len(split), effect, [split.show(n) for n in found[:SHOWN_EXAMPLES]]))
    return findings


def _quoted(split: Split) -> Finding:
    """Find fields that were written with quotation marks in a file without quoting."""
    path = Path(split.path)
    found, doubled = [], False
    if suffix_of(path) in TAB_SEPARATED:
        for number, example in enumerate(split.examples):
            quoted = [text for text in example.texts if text[0] == '"' and _QUOTED.fullmatch(text)]
            doubled = doubled or any('""' in text[1:-1] or text == '""' for text in quoted)
            if quoted:
                found.append(number)
    if not doubled and 2 * len(found) <= len(split):  # a few texts may be quotations
        found = []
    effect = f"the marks are part of the texts; save the file as .csv, or use {to_csv(path, TAB)}" if found else ""
    examples = [split.show(n) for n in found[:SHOWN_EXAMPLES]]
    what = "texts in quotation marks, as spreadsheets write them (.tsv has no quoting: save the file as .csv)"
    return Finding(what, len(found), len(split), effect, examples)


def _is_misread(text: str) -> bool:
    """Tell whether a part of a text gets shorter when it is encoded as Windows-1252 and decoded as UTF-8."""
    for stretch in _MISREAD.findall(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                if len(stretch.encode(encoding).decode("utf-8")) < len(stretch):
                    return True
            except UnicodeError:
                continue
        if stretch[0] in "锟烫屯":
            return True
    return False


def _label(label: float | str) -> str:
    return label if isinstance(label, str) else f"{label:g}"


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "...")


def quantiles(values: ArrayLike) -> str:
    """Format the median, the 95th percentile and the maximum."""
    middle, high, most = np.quantile(np.asarray(values), [0.5, 0.95, 1], method="higher")
    return f"median {middle:,}, 95% up to {high:,}, at most {most:,}"
