"""The whole job from Python: evaluate, calibrate and compare on data from anywhere."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import cosent
from cosent import (
    DataError,
    EvaluationOptions,
    SentenceBert,
    UserError,
    calibrate,
    compare,
    evaluate,
    load_data,
    report,
)
from tests.conftest import DATA

PATH = DATA / "zh" / "dev.txt"
FRAME = pd.read_csv(PATH, sep="\t", header=None, quoting=3)
GRADED = DATA / "dev.txt"


@pytest.fixture
def model(tiny_bert):
    return SentenceBert(tiny_bert, device="cpu")


def timeless(metrics):
    return {name: value for name, value in metrics.items() if name not in ("seconds", "texts_per_second")}


def test_the_same_data_has_the_same_metrics_wherever_it_comes_from(model):
    sources = [PATH, str(PATH), FRAME, FRAME.values.tolist(), load_data(PATH, model)]
    found = [evaluate(model, source, num_resamples=50) for source in sources]
    assert "spearman" in found[0].intervals
    for other in found[1:]:
        assert timeless(other.metrics) == timeless(found[0].metrics)
        assert other.intervals == found[0].intervals


def test_a_model_is_evaluated_by_its_own_decision(model):
    assert "accuracy" not in evaluate(model, PATH).metrics
    chosen = calibrate(model, PATH)
    assert evaluate(model, PATH).metrics["accuracy"] == chosen.value
    assert "brier" in evaluate(model, PATH).metrics
    assert "accuracy" not in evaluate(model, PATH, EvaluationOptions()).metrics
    model.settings.decision.precision = "binary"
    assert "accuracy" not in evaluate(model, PATH).metrics  # these scores are of float32


def test_a_graded_decision_knows_what_a_match_is(model):
    with pytest.raises(UserError, match="labels are graded: positive_label_min says"):
        calibrate(model, GRADED)
    chosen = calibrate(model, GRADED, positive_label_min=4, metric="f1")
    assert (chosen.metric, chosen.positive_label_min, chosen.calibrated_on) == ("f1", 4, str(GRADED))
    assert evaluate(model, GRADED).metrics["f1"] == chosen.value
    assert calibrate(model, GRADED).positive_label_min == 4  # as before


def test_what_is_calibrated_decides_and_is_saved(model, tmp_path):
    chosen = model.calibrate(FRAME)
    pairs = [tuple(row) for row in FRAME[[0, 1]].values.tolist()]
    prediction = model.predict(pairs)
    assert np.mean(prediction.matches == (FRAME[2] == 1)) == pytest.approx(chosen.value)
    model.save_pretrained(tmp_path)
    assert SentenceBert(tmp_path, device="cpu").settings.decision == chosen


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "ubinary"}, {"truncate_dim": 8}])
def test_a_decision_about_other_embeddings_is_made_of_their_scores(model, options):
    chosen = model.calibrate(PATH, **options)
    prediction = model.predict([tuple(row) for row in FRAME[[0, 1]].values.tolist()])
    assert np.mean(prediction.matches == (FRAME[2] == 1)) == pytest.approx(chosen.value)
    whole = SentenceBert(model.name_or_path, device="cpu").calibrate(PATH)
    assert whole.threshold != chosen.threshold


def test_what_chooses_no_threshold_is_one_clear_error(model):
    for data, message in (
        ([("a", "b", 1), ("c", "d", 1)], "nothing to tell apart"),
        ([("a", "b", 0.5), ("c", "d", 1)], "labels are graded"),
        ([("a text",)], "1 of 1 rows cannot be used"),
        (load_data(DATA / "classes.dev.tsv", model, data_format="classes"), "a threshold is chosen on labelled pairs"),
    ):
        with pytest.raises((UserError, DataError), match=message):
            calibrate(model, data)
    with pytest.raises(UserError, match="precision must be one of"):
        calibrate(model, PATH, precision="int4")
    with pytest.raises(TypeError, match="data must be a path"):
        model.calibrate(None)


def kendall(scores, labels):
    return {"kendall": stats.kendalltau(scores, labels).statistic}


def test_own_metrics_are_computed_and_bootstrapped(model):
    found = evaluate(model, PATH, num_resamples=100, compute_metrics=kendall)
    scores, labels = found.pairs.scores, found.pairs.labels
    assert found.metrics["kendall"] == stats.kendalltau(scores, labels).statistic
    low, high = found.intervals["kendall"]
    assert low < found.metrics["kendall"] < high

    def again(scores, labels):
        return {"rho": stats.spearmanr(scores, labels).statistic}

    twin = evaluate(model, PATH, num_resamples=100, compute_metrics=again)
    assert twin.intervals["rho"] == pytest.approx(twin.intervals["spearman"])  # the same draws


def test_what_is_no_metric_is_one_clear_error(model):
    for function, message in (
        (lambda scores, labels: 3, "compute_metrics must return numbers by name, got 3"),
        (lambda scores, labels: {"a": "x"}, "compute_metrics must return numbers by name"),
        (lambda scores, labels: {"spearman": 1.0}, "names a metric 'spearman', which is computed already"),
        (lambda scores, labels: {"uniformity": 1.0}, "names a metric 'uniformity', which is computed already"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(model, PATH, compute_metrics=function)
    with pytest.raises(TypeError, match="batchsize"):
        evaluate(model, PATH, batchsize=3)


def test_two_models_are_compared_on_data_from_anywhere(tiny_bert, model):
    other = SentenceBert(tiny_bert, device="cpu", pooling_mode="cls")
    first = compare(model, other, PATH, num_resamples=50)
    second = compare(model, other, FRAME, num_resamples=50)
    assert first.differences == second.differences
    assert first.mcnemar is None
    assert first.differences["spearman"].first == evaluate(model, PATH).metrics["spearman"]
    assert "spearman" in str(first) and "B - A" in str(first)
    same = compare(tiny_bert, model, PATH, num_resamples=50)
    assert same.differences["spearman"].value == 0
    for one in (model, other):
        one.calibrate(PATH)
    assert "McNemar" in str(compare(model, other, PATH, num_resamples=50))
    model.settings.decision.positive_label_min = 1
    with pytest.raises(UserError, match="the models differ in what a match is.*give positive_label_min"):
        compare(model, other, PATH)
    with pytest.raises(UserError, match="num_resamples must be at least 1"):
        compare(model, other, PATH, num_resamples=0)


def test_every_public_name_is_there_and_says_what_it_does():
    for name in cosent.__all__:
        assert getattr(cosent, name).__doc__ or name == "__version__"


def test_a_report_is_written_for_data_from_anywhere(model, tmp_path):
    page = report(model, FRAME, tmp_path / "new" / "folder", num_resamples=20)
    assert page == tmp_path / "new" / "folder" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert f"{evaluate(model, PATH, num_resamples=0).metrics['spearman']:.4f}" in text
    other = report(model, PATH, tmp_path, base=model, positive_label_min=1, num_resamples=0)
    assert "before" in other.read_text(encoding="utf-8")


def test_a_corpus_is_searched_by_the_model(model):
    corpus = FRAME[0].tolist()
    hits = model.search(corpus[3], corpus, top_k=2)
    assert hits.indices.shape == (1, 2)
    assert corpus[hits.indices[0, 0]] == corpus[3]


def test_tokens_of_another_model_are_made_anew(model, tmp_path):
    from tests.conftest import build_tiny_bert, build_tokenizer

    tokenizer = build_tokenizer().train_new_from_iterator(["another vocabulary"], 300, show_progress=False)
    other = SentenceBert(build_tiny_bert(tmp_path / "other", tokenizer), device="cpu")
    data, short = load_data(PATH, other), SentenceBert(model.name_or_path, device="cpu", max_length=4)
    assert data.suiting(other) is data
    expected = timeless(evaluate(model, PATH, num_resamples=0).metrics)
    for foreign in (data, load_data(PATH, short)):
        assert timeless(evaluate(model, foreign, num_resamples=0).metrics) == expected
    assert model.calibrate(data).threshold == model.calibrate(load_data(PATH, model)).threshold


def test_arguments_of_reading_are_taken_too(model):
    frame = pd.DataFrame({"x": ["a", "b", "c", "d"], "y": ["one", "two", "one", "two"]})
    options = {"text_columns": ("x",), "label_column": "y", "data_format": "classes"}
    assert "knn_accuracy" in evaluate(model, frame, num_neighbors=1, **options).metrics


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_resamples": -1}, UserError, "num_resamples must be at least 0"),
        ({"positive_label_min": "4"}, UserError, "positive_label_min must be a number"),
        ({"on_bad_rows": "drop"}, ValueError, "on_bad_rows must be one of error, skip, got 'drop'"),
    ],
)
def test_options_are_checked_at_once(model, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(model, PATH, **options)
    for wrong in ({"calibration": "foo"}, {"threshold_metric": "foo"}):
        with pytest.raises(UserError):
            cosent.DecisionOptions(**wrong)


def test_a_model_is_no_path_here():
    for function in (evaluate, calibrate, load_data):
        first, second = (PATH, "folder") if function is load_data else ("folder", PATH)
        with pytest.raises(TypeError, match="model must be a SentenceBert"):
            function(first, second)


def test_own_metrics_cannot_change_the_scores(model):
    def destructive(scores, labels):
        scores -= scores.min()
        scores *= -1
        labels.sort()
        return {"x": float(scores.mean())}

    plain, own = (
        evaluate(model, PATH, num_resamples=20),
        evaluate(model, PATH, num_resamples=20, compute_metrics=destructive),
    )
    assert own.metrics["spearman"] == plain.metrics["spearman"]
    assert own.intervals["spearman"] == plain.intervals["spearman"]
    assert (own.pairs.scores == plain.pairs.scores).all()


def test_what_holds_no_list_of_texts_is_refused(model):
    corpus = FRAME[0].tolist()
    for wrong in (dict(enumerate(corpus)), FRAME):
        with pytest.raises(TypeError, match="take its values, or one column"):
            model.encode(wrong)
        with pytest.raises(TypeError, match="take its values, or one column"):
            model.search("a query", wrong)
    stored = model.encode(corpus, precision="int8")
    with pytest.raises(UserError, match="a search compares float embeddings"):
        model.search("a query", stored)
    with pytest.raises(UserError, match="cannot be compared"):
        model.similarity(["a query"], stored)
