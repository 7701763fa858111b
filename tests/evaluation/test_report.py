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
from cosent.data.formats import Example
from cosent.evaluation.bootstrap import intervals, resampled_metrics
from cosent.evaluation.evaluators import Evaluation
from cosent.evaluation.report import TrainingRun, evaluation_report, plots, training_report
from cosent.evaluation.report.changes import changes, chosen_note
from cosent.evaluation.scored import ScoredPairs
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


LOGS = [
    {"step": 5, "loss": 3.0, "learning_rate": 1e-5, "epoch": 1},
    {
        "step": 5,
        "eval_spearman": 0.5,
        "eval_best_accuracy": 0.75,
        "eval_best_threshold": 0.8,
        "eval_uniformity": -2.5,
        "eval_runtime": 1,
    },
    {"step": 8, "learning_rate": 5e-6, "epoch": 1.6, "short_batches": 1.0},
    {"step": 10, "loss": 2.0, "learning_rate": 0.0, "epoch": 2},
    {
        "step": 10,
        "eval_spearman": 0.6,
        "eval_best_accuracy": 0.875,
        "eval_best_threshold": 0.7,
        "eval_uniformity": -2.0,
    },
]


def test_a_training_run_has_its_curves():
    made = training_report(LOGS, model_name="run", kept_step=10)
    rows = Cells(made.html).rows
    assert ["step", "Spearman", "best accuracy*", "uniformity"] in rows
    assert ["5", "0.5000", "0.7500", "-2.5000"] in rows
    assert ["10 kept", "0.6000", "0.8750", "-2.0000"] in rows
    assert ["5", "3.0000"] in rows
    assert "8" not in [row[0] for row in rows]  # it has neither a loss nor an evaluation
    assert "The kept step was chosen by these figures" in made.html
    assert "Short ones, such as the last batch of an epoch, are left out" in made.html
    if made.pictures:
        assert set(made.pictures) == {"loss", "learning_rate", "eval", "geometry"}
    plain = training_report(LOGS[:1], model_name="run").html
    assert "are left out" not in plain and "kept" not in plain and "<h2>Data" not in plain


def test_a_training_run_tells_results_data_and_settings():
    before = {"eval": Evaluation({"spearman": 0.4, "best_accuracy": 0.5}), "test": Evaluation({"spearman": 0.3})}
    after = {
        "eval": Evaluation({"spearman": 0.6, "best_accuracy": 0.75}, intervals={"spearman": (0.5, 0.7)}),
        "test": Evaluation({"spearman": 0.45, "brier": 0.125}),
    }
    run = TrainingRun(
        outcome=["Kept step 10."],
        warnings=["eval: <few>"],
        changes=changes(before, after, selecting="eval"),
        data={"train": "384 pairs of 数据.tsv"},
        examples=[Example(("怎么还款", "如何还款"), 1.0), Example(("<b>", "b"), 0.5)],
        settings={"seed": "42"},
    )
    html = training_report(LOGS, model_name="run", kept_step=10, run=run).html
    rows = Cells(html).rows
    for row in (
        ["", "before", "after", "95% interval"],
        ["eval spearman", "0.4000", "0.6000*", "0.5000 to 0.7000"],
        ["eval best accuracy", "0.5000", "0.7500*", ""],
        ["test spearman", "0.3000", "0.4500", ""],
        ["test brier", "–", "0.1250", ""],
        ["train", "384 pairs of 数据.tsv"],
        ["怎么还款\n如何还款", "1"],
        ["seed", "42"],
    ):
        assert row in rows
    assert "eval: &lt;few&gt;" in html and "<p>Kept step 10.</p>" in html
    assert "the eval data chose the step that was kept; a best accuracy is that of the threshold" in html


def test_only_what_was_chosen_on_its_own_data_is_marked():
    results = {name: Evaluation({"spearman": 0.4, "accuracy": 0.5, "best_accuracy": 0.75}) for name in ("eval", "test")}
    marked = [row.title for row in changes(results, results, selecting=None) if row.is_chosen_here]
    assert marked == ["eval best accuracy", "test best accuracy"]
    chosen = changes(results, results, selecting="eval")
    assert [row.title for row in chosen if not row.is_chosen_here] == [
        "test spearman",
        "test accuracy by eval threshold",
    ]
    assert chosen_note([row for row in chosen if not row.is_chosen_here]) == ""


@pytest.mark.parametrize(
    ("data_name", "is_said"), [("elsewhere/zh/dev.tsv", True), ("zh/test.tsv", False), ("en/dev.tsv", False)]
)
def test_a_threshold_of_the_very_data_is_called_that(result, data_name, is_said):
    decision = Decision(0.55, "accuracy", 0.9, "data/zh/dev.tsv", 60, calibration=Platt(9, -5))
    html = evaluation_report(result, model_name="m", data_name=data_name, decision=decision).html
    assert ("The stored threshold was chosen on this very data" in html) == is_said
    assert ("60 pairs), this very data, so no forecast" in html) == is_said
    assert "the probability is 0.49. It need not be 0.5" in html  # 1 / (1 + exp(0.05))


def test_only_graded_labels_have_a_lowest_one_of_a_match(result):
    decision = Decision(0.55, "accuracy", 0.9, "dev.tsv", 96, positive_label_min=4)
    binary = replace(result.pairs, labels=result.pairs.matches.astype(float))
    assert "are a match" not in page(replace(result, pairs=binary), decision=decision).html
    graded = replace(result.pairs, labels=np.where(result.pairs.matches, 4.0, 1.0))
    assert "labels from 4 on are a match" in page(replace(result, pairs=graded), decision=decision).html


def drawn(draw, *what):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    draw(axes, *what)
    return axes


def test_a_histogram_is_cropped_to_where_scores_are(result):
    scores = np.linspace(0.9, 0.95, 60)
    axes = drawn(plots._scores, replace(result.pairs, scores=scores, threshold=0.93))
    low, high = axes.get_xlim()
    assert 0.89 < low < 0.9 and 0.95 < high < 0.96
    assert "0.9300" in [text.get_text() for text in axes.texts]
    assert [line.get_xdata()[0] for line in axes.lines] == [0.93]
    alone = np.concatenate([np.full(2, -0.5), np.linspace(0.9, 0.95, 998)])
    far = ScoredPairs(alone, np.ones(1000), np.arange(1000), threshold=0.7)
    axes = drawn(plots._scores, far)
    assert axes.get_xlim()[0] > 0.85
    assert sum(bar.get_height() for bar in axes.patches) == 1000
    assert "the outermost bars include 2 pairs beyond" in axes.get_xlabel()
    assert [text.get_text() for text in axes.texts] == ["← 0.7000"]
    drawn(plots._scores, replace(far, scores=np.ones(1000)))  # a single score has a range, too


def test_alignment_and_uniformity_have_an_axis_of_their_own(monkeypatch):
    found = {}
    monkeypatch.setattr(plots, "_picture", lambda draw, title, lines, kept: found.update({title: (set(lines), kept)}))
    plots.draw_history([*LOGS, {"step": 10, "eval_alignment": 0.25, "eval_best_threshold": 0.5}], kept_step=10)
    assert found == {
        "Training loss": ({"loss"}, 10),
        "Learning rate": ({"learning rate"}, 10),
        "Metrics on the eval data (higher is better)": ({"spearman", "best_accuracy"}, 10),
        "Alignment and uniformity (lower is better)": ({"alignment", "uniformity"}, 10),
    }


def test_the_kept_step_is_marked():
    axes = drawn(plots._lines, "Training loss", {"loss": [(5, 3.0), (10, 2.0)]}, 5)
    assert [line.get_label() for line in axes.lines] == ["loss", "kept: step 5"]
    assert list(axes.lines[1].get_xdata()) == [5, 5]


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
