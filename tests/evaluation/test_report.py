"""The page itself; how a browser shows it is in tests/cli/test_report.py."""

import ast
import re
import tomllib
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from cosent.calibration import Platt
from cosent.evaluation.bootstrap import intervals, resampled_metrics
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.report import evaluation_report, plots, training_report
from cosent.model.decision import Decision
from tests.evaluation.test_bootstrap import scored

PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = [[f"怎么还款 {i}", f'<b>如何</b> & "还" {i}'] for i in range(60)]


@pytest.fixture
def result():
    pairs = scored()
    return Evaluation({"n": 60, **pairs.metrics(), "uniformity": -2.0}, pairs, intervals(resampled_metrics(pairs)))


class Cells(HTMLParser):
    """The rows of all tables, and every tag that was opened and not closed."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open, self.cell = [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def page(result, **options):
    return evaluation_report(result, model_name="模型", data_name="test.tsv", texts=TEXTS, **options)


def test_it_shows_every_metric_with_its_interval(result):
    decision = Decision(0.55, "accuracy", 0.9, "dev.tsv", 96, calibration=Platt(9, -5))
    rows = Cells(page(result, decision=decision).html).rows
    shown = {row[0]: row[1:] for row in rows}
    low, high = result.intervals["spearman"]
    assert shown["Spearman"] == [f"{result.metrics['spearman']:.4f}", f"{low:.4f} to {high:.4f}"]
    for name in ("accuracy", "F1", "MCC", "expected calibration error", "Brier score", "ROC-AUC", "best accuracy"):
        assert re.fullmatch(r"\d\.\d{4}", shown[name][0]), name


def test_it_is_one_file_whose_parts_are_closed_and_whose_texts_stay_texts(result):
    made = page(result)
    cells = Cells(made.html)
    assert cells.open == []
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|<script|<link|@import", made.html)
    assert "<b>如何" not in made.html
    assert len([row for row in cells.rows if row[-1] in map("\n".join, TEXTS)]) > 5


def test_it_shows_the_surest_mistakes_first(result):
    shown = [row[2] for row in Cells(page(result).html).rows if len(row) == 3 and row[2].startswith("怎么还款")]
    pairs = result.pairs
    false_matches = np.flatnonzero((pairs.scores >= 0.55) & ~pairs.matches)
    missed = np.flatnonzero((pairs.scores < 0.55) & pairs.matches)
    highest = false_matches[np.argsort(-pairs.scores[false_matches])][:12]
    lowest = missed[np.argsort(pairs.scores[missed])][:12]
    assert len(highest) > 1 and len(lowest) > 1
    assert shown == ["\n".join(TEXTS[n]) for n in (*highest, *lowest)]


def test_pictures_are_in_it_and_beside_it(result, tmp_path):
    pytest.importorskip("matplotlib")
    made = page(result, base_name="base", base_scores=result.pairs.scores - 0.1)
    assert set(made.pictures) == {"scores", "precision_recall", "roc", "reliability", "percentiles"}
    assert made.html.count("data:image/png;base64,") == 5
    path = made.write(tmp_path, "report")
    assert path.read_text(encoding="utf-8") == made.html
    files = {file.name for file in tmp_path.glob("*.png")}
    assert files == {
        f"report-{name}.png" for name in ("scores", "precision-recall", "roc", "reliability", "percentiles")
    }
    assert all(file.read_bytes().startswith(PNG) for file in tmp_path.glob("*.png"))


def test_without_matplotlib_the_numbers_still_come(result, monkeypatch):
    monkeypatch.setattr(plots, "can_draw", lambda: False)
    made = page(result, base_name="base", base_scores=result.pairs.scores)
    assert made.pictures == {}
    assert "pip install" in made.html
    assert f"{result.metrics['spearman']:.4f}" in made.html
    logs = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_spearman": 0.5}]
    assert "0.5000" in training_report(logs, model_name="run").html


def test_graded_labels_and_other_formats_have_a_page_too(result):
    pairs = replace(result.pairs, matches=None, threshold=None, probabilities=None)
    graded = page(Evaluation({"n": 60, **pairs.metrics()}, pairs))
    assert "Pairs farthest from their place" in graded.html
    assert "threshold" not in graded.html
    classes = page(Evaluation({"n": 60, "knn_accuracy": 0.75, "uniformity": -2.0}))
    assert ["knn accuracy", "0.7500", ""] in Cells(classes.html).rows


def test_warnings_stand_on_top(result):
    collapsed = replace(result, metrics={**result.metrics, "uniformity": -0.001, "effective_rank": 1.2})
    assert page(collapsed).html.index("embeddings have collapsed") < page(collapsed).html.index("<h2>")


def test_a_training_run_has_its_curves():
    logs = [
        {"step": 5, "loss": 3.0, "learning_rate": 1e-5, "epoch": 1},
        {"step": 5, "eval_spearman": 0.5, "eval_n": 96, "eval_runtime": 0.25, "eval_steps_per_second": 0.5},
        {"step": 10, "loss": 2.0, "learning_rate": 0.0, "epoch": 2},
        {"step": 10, "eval_spearman": 0.6, "eval_n": 96, "eval_runtime": 0.25, "eval_steps_per_second": 0.5},
    ]
    made = training_report(logs, model_name="run")
    rows = Cells(made.html).rows
    assert ["10", "0.6000"] in rows
    assert ["step", "spearman"] in rows
    assert ["5", "3.0000"] in rows
    if made.pictures:
        assert set(made.pictures) == {"loss", "learning_rate", "eval"}


@pytest.mark.parametrize(
    "text", ["<script>alert('x')</script>", "\"还款\" & 'so' &amp; <b>", "</td></title></style>", "{{ 7 * 7 }}{% if %}"]
)
def test_markup_in_a_text_stays_text(result, monkeypatch, text):
    monkeypatch.setattr(plots, "can_draw", lambda: False)
    plain, marked = (
        evaluation_report(result, model_name=said, data_name=said, texts=[[said, said]] * 60).html
        for said in ("x" * len(text), text)
    )
    assert [row[-1] for row in Cells(marked).rows].count(f"{text}\n{text}") > 5
    assert unescape(re.search("<h1>(.*)</h1>", marked)[1]) == text
    tags = re.compile(r"</?\w+")
    assert tags.findall(marked) == tags.findall(plain)


def test_a_cell_is_of_the_kind_that_it_was_made_as(result):
    odd = replace(result.pairs, labels=result.pairs.labels * 1e-5)
    made = page(replace(result, pairs=odd), decision=Decision(0.55, "accuracy", 0.9, "dev.tsv", 96))
    assert '<td class="number">1e-05</td>' in made.html
    assert '<td class="name">best accuracy</td><td class="number">' in made.html
    assert '<th class="text">texts</th>' in made.html
    assert '<td class="interval"></td>' in made.html  # of a metric without one


def test_the_templates_are_in_the_wheel():
    package = "cosent.evaluation.report"
    templates = {file.name for file in files(package).joinpath("templates").iterdir()}
    assert {"page.html", "evaluation.html", "training.html", "style.css"} <= templates
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][package]
    packed = {file.name for pattern in patterns for file in (root / package.replace(".", "/")).glob(pattern)}
    assert packed == templates


def test_no_module_imports_jinja2_before_a_page_is_made():
    modules = [file for file in files("cosent.evaluation.report").iterdir() if file.name.endswith(".py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")).body for file in modules]
    at_once = {ast.unparse(node) for tree in trees for node in tree if isinstance(node, ast.Import | ast.ImportFrom)}
    assert len(at_once) > 5 and not any("jinja2" in line for line in at_once)
