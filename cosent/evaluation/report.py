"""An evaluation, or a training run, as one HTML file that shows itself anywhere: no network, no script, no other file.

Shapes: n pairs.
"""

import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cosent.evaluation.bootstrap import CONFIDENCE
from cosent.evaluation.degeneracy import warnings_of
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.metrics import BEST_DECISIONS, CALIBRATION, CORRELATIONS, DECISION
from cosent.evaluation.plots import can_draw, draw_history, draw_pairs, draw_percentiles, is_metric
from cosent.evaluation.scored import ScoredPairs
from cosent.evaluation.slices import Slice, by_label, by_length, by_overlap
from cosent.model.checkpoint import Decision

SHOWN_MISTAKES = 12
NO_PICTURES = "Pictures need matplotlib: pip install 'cosent[report]'."

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_NAMES = {
    "ece": "expected calibration error",
    "brier": "Brier score",
    "f1": "F1",
    "mcc": "MCC",
    "roc_auc": "ROC-AUC",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "best_f1": "best F1",
    "best_f1_threshold": "its threshold",
    "best_threshold": "its threshold",
}
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC",
  "Microsoft YaHei", sans-serif; color: #1c1c1c; background: #fff; margin: 0 auto; padding: 1rem; max-width: 62rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
p, li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.text { min-width: 12rem; overflow-wrap: anywhere; white-space: pre-line; }
.note { color: #555; font-size: .9rem; }
.warning { border-left: 4px solid #c2512f; background: #fbf1ed; padding: .5rem .75rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
img { width: 100%; height: auto; }
@media print { body { font-size: 11px; max-width: none; } .wide { overflow: visible; } h2 { break-after: avoid; }
  img, tr { break-inside: avoid; } .pictures { grid-template-columns: 1fr 1fr; } }
"""


@dataclass(frozen=True)
class Report:
    """A page and the pictures in it.

    Attributes:
        html: the page, complete.
        pictures: PNG files by name.
    """

    html: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, folder: str | Path, name: str) -> Path:
        """Write `<name>.html`, and the pictures as `<name>-<picture>.png`, into a folder that is there; the page."""
        page = Path(folder) / f"{name}.html"
        page.write_text(self.html, encoding="utf-8")
        for picture, content in self.pictures.items():
            (Path(folder) / f"{name}-{picture.replace('_', '-')}.png").write_bytes(content)
        return page


def evaluation_report(
    result: Evaluation,
    *,
    model_name: str,
    data_name: str,
    texts: Sequence[Sequence[str]] = (),
    decision: Decision | None = None,
    base_name: str = "",
    base_scores: NDArray[np.float64] | None = None,
) -> Report:
    """Make a page of an evaluation.

    Args:
        result: what was measured.
        model_name: whose it is.
        data_name: on what.
        texts: (n,) the texts of pairs.
        decision: the model's stored threshold, and where it is from.
        base_name: the model that was fine-tuned.
        base_scores: (n,) what that one says of the same pairs.

    Returns:
        The page.
    """
    pairs = result.pairs
    pictures = draw_pairs(pairs) if pairs is not None and can_draw() else {}
    limit = decision.positive_label_min if decision is not None else None
    truth = f"; labels from {limit:g} on are a match" if limit is not None and pairs is not None else ""
    parts = [f"<p>{escape(data_name)}: {result.metrics['n']:,} examples{truth}</p>"]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in warnings_of(result)]
    parts += _metrics(result, decision)
    if pairs is not None:
        if base_scores is not None and can_draw():
            pictures["percentiles"] = draw_percentiles(base_scores, pairs.scores)
        parts += _pictures(pictures)
        parts += _confusions(pairs, result.metrics)
        parts += _slices(pairs, texts)
        parts += _percentiles(pairs.scores, base_name, base_scores)
        parts += _mistakes(pairs, texts)
    return Report(_page(model_name, parts), pictures)


def training_report(log_history: Sequence[dict[str, float]], *, model_name: str) -> Report:
    """Make a page of a training run.

    Args:
        log_history: the Trainer's logs.
        model_name: what was trained.

    Returns:
        The page: curves, and a table of the evaluations.
    """
    pictures = draw_history(log_history) if can_draw() else {}
    evaluations = [log for log in log_history if any(map(is_metric, log))]
    names = [name for name in evaluations[0] if is_metric(name)] if evaluations else []
    rows = [[f"{log['step']:,.0f}", *(_number(log.get(name, math.nan)) for name in names)] for log in evaluations]
    losses = [(log["step"], log["loss"]) for log in log_history if "loss" in log]
    parts = _pictures(pictures)
    if rows:
        header = ["step", *(name.removeprefix("eval_").replace("_", " ") for name in names)]
        parts += ["<h2>Evaluations</h2>", _table(header, rows)]
    if losses:
        parts += ["<h2>Loss</h2>", _table(["step", "loss"], [[f"{step:,.0f}", _number(loss)] for step, loss in losses])]
    return Report(_page(f"Training of {model_name}", parts), pictures)


def _page(title: str, parts: Iterable[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _metrics(result: Evaluation, decision: Decision | None) -> list[str]:
    groups: list[tuple[str, Sequence[str]]] = [("", [*CORRELATIONS, "average_precision", "roc_auc"])]
    if decision is not None:
        origin = f"At the stored threshold {decision.threshold:.4f}, the best by {decision.metric} on "
        groups.append((f"{origin}{decision.calibrated_on} ({decision.num_pairs:,} pairs)", [*DECISION, *CALIBRATION]))
    chosen = [name for name in BEST_DECISIONS if name.startswith("best")]
    groups.append(("Chosen on this very data, so no forecast for other data", chosen))
    named = {name for _, names in groups for name in names} | {*DECISION, *CALIBRATION, "n", "num_queries"}
    groups.insert(1, ("", [name for name in result.metrics if name not in named and "second" not in name]))
    parts = ["<h2>Metrics</h2>"]
    for title, names in groups:
        rows = [
            [_name(name), _number(result.metrics[name]), _interval(result.intervals.get(name))]
            for name in names
            if name in result.metrics and name != "threshold"
        ]
        if rows:
            parts += [f"<p>{escape(title)}</p>"] if title else []
            parts.append(
                _table(["", "value", f"{CONFIDENCE:.0%} interval" if any(row[2] for row in rows) else ""], rows)
            )
    if result.intervals:
        parts.append(
            '<p class="note">Intervals are from a bootstrap that draws groups of examples which depend on each other, '
            "such as pairs that share a text, not single examples.</p>"
        )
    return parts


def _pictures(pictures: Mapping[str, bytes]) -> list[str]:
    if not pictures:
        return [] if can_draw() else [f'<p class="note">{escape(NO_PICTURES)}</p>']
    images = [
        f'<img alt="{escape(name.replace("_", " "))}" src="data:image/png;base64,{b64encode(content).decode()}">'
        for name, content in pictures.items()
    ]
    return ["<h2>Pictures</h2>", '<div class="pictures">', *images, "</div>"]


def _confusions(pairs: ScoredPairs, metrics: Mapping[str, float]) -> list[str]:
    if pairs.matches is None:
        return []
    parts = ["<h2>Decisions</h2>"]
    best = metrics["best_threshold"]
    for name, threshold in (("stored threshold", pairs.threshold), ("most accurate threshold of this data", best)):
        if threshold is not None:
            said = pairs.scores >= threshold
            rows = [
                [truth, *(f"{int(np.sum(side & chosen)):,}" for side in (said, ~said))]
                for truth, chosen in (("matches", pairs.matches), ("does not match", ~pairs.matches))
            ]
            parts += [
                f"<p>At the {name}, {threshold:.4f}:</p>",
                _table(["truth", "said to match", "said not to"], rows),
            ]
    return parts


def _slices(pairs: ScoredPairs, texts: Sequence[Sequence[str]]) -> list[str]:
    parts = []
    wanted = ("accuracy", "f1", "spearman")  # without a threshold the last one alone is there
    if len(texts):
        parts += ["<h2>By length of both texts</h2>", _slice_table(by_length(pairs, texts), wanted)]
        parts += ["<h2>By lexical overlap</h2>", _slice_table(by_overlap(pairs, texts), wanted)]
        parts.append(
            '<p class="note">Overlap is the share of neighbouring letters that both texts have. A model that only '
            "compares words is right where overlap and label agree.</p>"
        )
    if labels := by_label(pairs):
        parts += ["<h2>By label</h2>", _slice_table(labels, ("accuracy",))]
    return parts


def _slice_table(slices: Sequence[Slice], wanted: Sequence[str]) -> str:
    shown = [name for name in wanted if any(name in part.metrics for part in slices)]
    rows = [
        [part.name, f"{part.n:,}", _number(part.mean_score), *(_number(part.metrics[name]) for name in shown)]
        for part in slices
    ]
    return _table(["", "pairs", "mean score", *map(_name, shown)], rows)


def _percentiles(scores: NDArray, base_name: str, base_scores: NDArray | None) -> list[str]:
    columns = {"score": scores} if base_scores is None else {f"{base_name}, before": base_scores, "after": scores}
    values = np.percentile(list(columns.values()), _PERCENTILES, axis=1)
    rows = [[f"{percent}%", *map(_number, row)] for percent, row in zip(_PERCENTILES, values, strict=True)]
    return ["<h2>Percentiles of scores</h2>", _table(["of pairs", *columns], rows)]


def _mistakes(pairs: ScoredPairs, texts: Sequence[Sequence[str]]) -> list[str]:
    """The wrong decisions that were the surest; without decisions, the pairs that rank farthest from their label."""
    if not len(texts):
        return []
    if pairs.matches is None or pairs.threshold is None:
        gap = np.abs(stats.rankdata(pairs.scores) - stats.rankdata(pairs.labels))
        note = '<p class="note">Their rank by score differs most from their rank by label.</p>'
        worst = _examples(pairs, texts, np.argsort(-gap, kind="stable"))
        return ["<h2>Pairs farthest from their place</h2>", note, worst]
    said = pairs.scores >= pairs.threshold
    parts = ["<h2>The surest mistakes</h2>"]
    for title, wrong, sign in (
        ("do not match, and are said to", said & ~pairs.matches, -1),
        ("match, and are said not to", ~said & pairs.matches, 1),
    ):
        numbers = np.flatnonzero(wrong)
        parts.append(f"<p>{len(numbers):,} pairs {title}. Farthest from the threshold:</p>")
        parts.append(_examples(pairs, texts, numbers[np.argsort(sign * pairs.scores[numbers], kind="stable")]))
    return parts


def _examples(pairs: ScoredPairs, texts: Sequence[Sequence[str]], order: NDArray[np.int64]) -> str:
    rows = [
        [
            _number(pairs.scores[n]),
            f"{pairs.labels[n]:g}",
            _Text("\n".join(" ".join(text.split()) for text in texts[n])),
        ]
        for n in order[:SHOWN_MISTAKES].tolist()
    ]
    return _table(["score", "label", "texts"], rows) if rows else ""


class _Text(str):
    """A cell of texts of the data, a line each, which may be long."""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = [_kind(cell) for cell in rows[0]]
    head = "".join(f'<th class="{kind}">{escape(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _cell(cell: str) -> str:
    return f'<td class="{_kind(cell)}">{escape(cell)}</td>'


def _kind(cell: str) -> str:
    is_number = bool(re.fullmatch(r"[-–]?[\d,.]*%?", cell)) and not isinstance(cell, _Text)
    return "text" if isinstance(cell, _Text) else "number" if is_number else "name"


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}"
