"""Checks of two data files beside each other: leaks, shares of matches.

Shapes: n examples in a file, K texts in each, N texts in all of them, U distinct texts in both files.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cosent.data.formats import FORMATS
from cosent.data.graphs import components
from cosent.data.lint import SHOWN_EXAMPLES, Finding, Split, TextIds, normalized
from cosent.data.positives import is_match

_CLEAR_SHARE, _STANDARD_ERRORS = 0.1, 3  # how far two shares of matches must differ to be found


def check_leaks(
    earlier: Split, later: Split, positive_label_min: float | None = None, *, is_trained_on: bool = True
) -> list[Finding]:
    """Check two files for leaks, and for another share of matches.

    Args:
        earlier: the training data, or held-out data that chooses the checkpoint and the threshold.
        later: the held-out data.
        positive_label_min: the lowest graded label of a match.
        is_trained_on: whether the earlier file is the training data.

    Returns:
        A finding for each kind of problem present, counted in the later file's examples.
    """
    exact = _Shared(earlier, later, TextIds())
    loose = _Shared(earlier, later, TextIds(normalized))
    name = earlier.path
    memory = "what was trained on is measured again, so the figure flatters"
    seen = "they are about texts that training has seen from another side; the rest measures what is new"
    if not is_trained_on:
        memory = "what chooses the checkpoint and the threshold is measured again, so the figure flatters"
        seen = "they are about texts that choose the checkpoint and the threshold, too; the rest measures what is new"
    findings = [_other_share(earlier, later, positive_label_min, is_trained_on=is_trained_on)]
    if FORMATS[later.data_format].label is float:
        findings.append(exact.finding(f"pairs that stand in {name}, either way round", exact.whole, memory))
        findings.append(
            loose.finding(
                f"pairs that stand in {name} but for case, width, spaces or punctuation",
                loose.whole & ~exact.whole,
                memory,
            )
        )
    findings.append(exact.finding(f"examples with a text of {name}", exact.any_text, memory))
    findings.append(
        loose.finding(
            f"examples with a text of {name} but for case, width, spaces or punctuation",
            loose.any_text & ~exact.any_text,
            memory,
        )
    )
    findings.append(
        loose.finding(
            f"examples that hang together with {name} through any chain of shared texts",
            loose.connected,
            seen,
        )
    )
    return [finding for finding in findings if finding is not None and finding.count]


def _other_share(
    earlier: Split, later: Split, positive_label_min: float | None, *, is_trained_on: bool
) -> Finding | None:
    """Find a share of matches that differs clearly and by more than chance."""
    if not FORMATS[earlier.data_format].label is FORMATS[later.data_format].label is float:
        return None
    one, other = (is_match(split.labels, positive_label_min) for split in (earlier, later))
    if one is None or other is None:
        return None
    both = np.concatenate([one, other])
    error = both.std() * math.sqrt(1 / len(one) + 1 / len(other))
    if abs(one.mean() - other.mean()) < max(_CLEAR_SHARE, _STANDARD_ERRORS * error):
        return None
    effect = (
        "the files were sampled or labelled differently, so accuracy and F1 on them cannot be compared"
        if is_trained_on
        else "a threshold and probabilities that were chosen there suit another share than that of these pairs"
    )
    what = f"pairs that match, of which {earlier.path} has {one.mean():.1%}"
    return Finding(what, int(other.sum()), len(other), effect)


class _Shared:
    """Finds the examples of a file that share texts, under some key, with another file."""

    def __init__(self, earlier: Split, later: Split, ids: TextIds):
        self.earlier, self.later = earlier, later
        first, second = (
            ids.of(text for example in split.examples for text in example.texts) for split in (earlier, later)
        )
        size = len(ids.known)
        known = np.zeros(size, dtype=bool)
        known[first] = True
        self.any_text = _any_of_rows(known[second], later.widths)
        self.whole = np.zeros(len(later), dtype=bool)
        if FORMATS[earlier.data_format].label is FORMATS[later.data_format].label is float:
            one, other = (np.sort(part.reshape(-1, 2), axis=1) @ [size, 1] for part in (first, second))
            self.whole = np.isin(other, one)
        component = components(*_edges([(first, earlier.widths), (second, later.widths)]), size)
        reached = np.zeros(size, dtype=bool)
        reached[component[first]] = True
        self.connected = _any_of_rows(reached[component[second]], later.widths)

    def finding(self, what: str, found: NDArray[np.bool_], effect: str) -> Finding:
        """Make a finding about some of the later file's examples."""
        numbers = np.flatnonzero(found)
        return Finding(what, len(numbers), len(found), effect, [self.later.show(n) for n in numbers[:SHOWN_EXAMPLES]])


def _edges(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Make edges from each example's first text to each of its texts."""
    firsts = [np.repeat(texts[np.cumsum(widths) - widths], widths) for texts, widths in parts]
    return np.concatenate(firsts), np.concatenate([texts for texts, _ in parts])


def _any_of_rows(values: NDArray[np.bool_], widths: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.logical_or.reduceat(values, np.cumsum(widths) - widths) if len(widths) else np.zeros(0, dtype=bool)
