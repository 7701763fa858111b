import math

import numpy as np
import pytest
import torch

from cosent import SentenceBert, UserError, load_data
from cosent.evaluation.evaluators import EvaluationOptions, default_metric, evaluate, metric_names
from cosent.evaluation.geometry import effective_rank, uniformity
from cosent.evaluation.metrics import DECISION
from tests.conftest import DATA

COUNTS = {"n", "seconds", "texts_per_second"}


@pytest.fixture
def binary(model):
    return load_data(DATA / "zh" / "dev.txt", model)


@pytest.fixture
def graded(model):
    return load_data(DATA / "dev.txt", model)


def unit_vectors(model, texts):
    return model.encode(list(texts), normalize_embeddings=True).astype(np.float64)


def test_scores_are_the_cosines_of_the_pairs_in_their_order(model, binary):
    scores = evaluate(model, binary, EvaluationOptions(batch_size=7)).pairs.scores
    pairs = list(binary.records.rows["texts"])
    np.testing.assert_allclose(scores, model.predict(pairs, threshold=0).scores, rtol=1e-5, atol=1e-5)


def test_metrics_are_those_that_labels_allow(model, binary, graded):
    assert set(evaluate(model, graded).metrics) == set(metric_names(graded)) | COUNTS
    found = evaluate(model, graded, EvaluationOptions(positive_label_min=4)).metrics
    assert set(found) == set(metric_names(graded, 4)) | COUNTS
    found = evaluate(model, binary).metrics
    assert set(found) == set(metric_names(binary)) | COUNTS
    found = evaluate(model, binary, EvaluationOptions(threshold=0.5)).metrics
    assert set(found) == set(metric_names(binary)) | set(DECISION) | COUNTS
    assert found["n"] == len(binary)


@pytest.mark.parametrize(("name", "limit"), [("binary", None), ("graded", 4)])
def test_alignment_of_pairs_is_over_those_that_match(model, request, name, limit):
    data = request.getfixturevalue(name)
    first, second = (unit_vectors(model, texts) for texts in zip(*data.records.rows["texts"], strict=True))
    expected = np.square(first - second).sum(1)[data.labels >= (limit or 1)].mean()
    found = evaluate(model, data, EvaluationOptions(positive_label_min=limit)).metrics
    assert found["alignment"] == pytest.approx(expected, abs=1e-5)


def test_pairs_that_share_a_text_are_one_cluster(model, tmp_path):
    rows = [("a", "b", 1), ("c", "d", 0), ("e", "b", 0), ("f", "g", 1), ("e", "h", 1)]
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\t{label}\n" for a, b, label in rows))
    clusters = evaluate(model, load_data(tmp_path / "a.tsv", model)).pairs.clusters
    assert clusters[0] == clusters[2] == clusters[4]
    assert len(set(clusters)) == 3


@pytest.mark.parametrize(
    ("name", "options", "metrics"),
    [
        ("zh/dev.txt", {}, ("spearman", "average_precision")),
        ("triplets.dev.tsv", {"data_format": "triplets"}, ("triplet_accuracy", "mean_margin", "mrr")),
        ("classes.train.tsv", {"data_format": "classes"}, ("nn_accuracy", "knn_accuracy", "map_at_r")),
    ],
)
def test_intervals_are_there_when_they_are_asked_for(model, name, options, metrics):
    data = load_data(DATA / name, model, **options)
    assert evaluate(model, data, num_resamples=0).intervals == {}
    assert metrics[0] in evaluate(model, data, num_resamples=20).intervals
    assert EvaluationOptions().num_resamples == 0
    found = evaluate(model, data, EvaluationOptions(num_resamples=200, num_neighbors=1))
    other = evaluate(model, data, EvaluationOptions(num_resamples=200, num_neighbors=1, seed=1))
    assert other.metrics[metrics[0]] == found.metrics[metrics[0]]
    assert other.intervals != found.intervals
    for metric in metrics:
        low, high = found.intervals[metric]
        assert low < found.metrics[metric] < high


def test_the_best_threshold_attains_the_best_accuracy(model, binary):
    best = evaluate(model, binary).metrics
    found = evaluate(model, binary, EvaluationOptions(threshold=best["best_threshold"])).metrics
    assert found["accuracy"] == best["best_accuracy"]


def test_each_distinct_text_is_embedded_once(model, binary, monkeypatch):
    seen = []
    encode_tokens = model.encode_tokens
    monkeypatch.setattr(
        model, "encode_tokens", lambda tokens, **kw: seen.append(len(tokens)) or encode_tokens(tokens, **kw)
    )
    evaluate(model, binary)
    texts = [text for pair in binary.records.rows["texts"] for text in pair]
    distinct = {tuple(row) for row in model.tokenizer(texts)["input_ids"]}
    assert seen == [len(distinct)]
    assert len(distinct) < 2 * len(binary)


def test_a_default_prompt_counts_in_evaluation_as_it_does_in_use(model):
    model.settings.prompts, model.settings.default_prompt_name = {"query": "怎么 "}, "query"
    binary = load_data(DATA / "zh" / "dev.txt", model)
    pairs = list(binary.records.rows["texts"])
    scores = model.predict(pairs, threshold=0).scores
    np.testing.assert_allclose(evaluate(model, binary).pairs.scores, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [0.9, 3.8])
def test_a_label_that_equals_the_minimum_is_a_match(model, tmp_path, limit):
    (tmp_path / "a.tsv").write_text(f"refund\trefund\t{limit}\npassword\tcard\t0.2\n")
    found = evaluate(model, load_data(tmp_path / "a.tsv", model), EvaluationOptions(positive_label_min=limit)).metrics
    assert found["best_f1"] == 1.0


@pytest.mark.parametrize(("limit", "message"), [(6, "no label reaches"), (0, "every label reaches")])
def test_a_minimum_that_separates_nothing_is_refused(model, graded, limit, message):
    with pytest.raises(UserError, match=f"{message} positive_label_min={limit}: they go from 0 to 5"):
        evaluate(model, graded, EvaluationOptions(positive_label_min=limit))


def test_a_selection_of_rows_is_evaluated_alone(model, binary):
    part = binary.select(np.arange(5, 20))
    whole = evaluate(model, binary).pairs.scores[5:20]
    np.testing.assert_allclose(evaluate(model, part).pairs.scores, whole, rtol=1e-5, atol=1e-5)


def test_a_collapsed_model_has_no_correlation_and_no_skill(model, binary):
    for parameter in model.parameters():
        parameter.data.zero_()
    found = evaluate(model, binary).metrics
    assert math.isnan(found["spearman"])
    assert found["best_accuracy"] == max(np.mean(binary.labels), 1 - np.mean(binary.labels))
    assert found["roc_auc"] == 0.5


def test_a_model_that_went_to_nan_is_an_error(model, binary):
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        evaluate(model, binary)


def test_the_bundled_backbone_has_its_published_score(minilm, shared_data):
    model = SentenceBert(minilm, device="cpu")
    test = load_data(shared_data / "stsb_en" / "test.tsv", model)
    assert evaluate(model, test).metrics["spearman"] == pytest.approx(0.8203, abs=5e-5)


@pytest.fixture
def triplets(model):
    return load_data(DATA / "triplets.dev.tsv", model)


@pytest.fixture
def classes(model):
    return load_data(DATA / "classes.dev.tsv", model, data_format="classes")


@pytest.fixture
def sentences(model):
    return load_data(DATA / "sentences.txt", model).select(np.arange(50))


@pytest.mark.parametrize("name", ["binary", "graded", "triplets", "classes", "sentences"])
def test_the_metrics_are_those_that_are_announced_and_have_a_default(model, request, name):
    data = request.getfixturevalue(name)
    found = evaluate(model, data).metrics
    assert set(found) - {"num_queries"} == set(metric_names(data)) | COUNTS
    assert all(math.isfinite(value) for value in found.values())
    assert default_metric(data)[0] in found


@pytest.mark.parametrize("name", ["binary", "graded", "triplets", "classes", "sentences"])
def test_spread_is_that_of_distinct_texts(model, request, name):
    data = request.getfixturevalue(name)
    texts = {tuple(model.tokenizer(text)["input_ids"]): text for row in data.records.rows["texts"] for text in row}
    unit = torch.from_numpy(unit_vectors(model, texts.values()))
    found = evaluate(model, data).metrics
    assert found["uniformity"] == pytest.approx(uniformity(unit), abs=1e-4)
    assert found["effective_rank"] == pytest.approx(effective_rank(unit), rel=1e-4)
    assert found["texts_per_second"] * found["seconds"] == pytest.approx(len(unit))


def test_triplets_are_compared_one_negative_at_a_time(model, triplets):
    found = evaluate(model, triplets).metrics
    margins, ranks = [], []
    rows = list(triplets.records.rows["texts"])
    candidates = sorted({text for row in rows for text in row[1:]})
    for anchor, positive, *negatives in rows:
        near = model.similarity([anchor], [positive]).item()
        margins += [near - far for far in model.similarity([anchor], negatives)[0].tolist()]
        matching = {text for row in rows for text in row[:2] if {anchor, positive} & set(row[:2])}
        others = [text for text in candidates if text not in matching]
        ranks.append(1 + (model.similarity([anchor], others)[0] >= near).sum().item())
    assert found["triplet_accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
    assert found["mean_margin"] == pytest.approx(np.mean(margins), abs=1e-5)
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)), abs=1e-3)
    assert found["alignment"] == pytest.approx(
        2 - 2 * np.mean([model.similarity(row[:1], row[1:2]).item() for row in rows]), abs=1e-5
    )


def test_a_negative_that_is_as_near_as_the_positive_is_a_mistake(model, tmp_path):
    (tmp_path / "a.tsv").write_text("pay\tpay\tpay\tpassword\n")  # cosines 1, and 1 and less of the negatives
    found = evaluate(model, load_data(tmp_path / "a.tsv", model, data_format="triplets")).metrics
    assert found["triplet_accuracy"] == 0.5
    assert found["mean_margin"] == pytest.approx((0 + 1 - model.similarity(["pay"], ["password"]).item()) / 2, abs=1e-5)


def test_anchors_and_positives_alone_are_evaluated_by_retrieval(model, tmp_path):
    (tmp_path / "a.tsv").write_text("pay\tpay now\nlogin\tsign in\n")
    data = load_data(tmp_path / "a.tsv", model, data_format="triplets")
    assert default_metric(data) == ("mrr", True)
    assert set(evaluate(model, data).metrics) == set(metric_names(data)) | COUNTS


def test_classes_are_looked_up_in_an_index_or_among_themselves(model, classes):
    train = load_data(DATA / "classes.train.tsv", model, data_format="classes")
    found = evaluate(model, classes, EvaluationOptions(index=train, num_neighbors=1)).metrics
    texts, names = ([row[0] for row in data.records.rows["texts"]] for data in (classes, train))
    nearest = model.similarity(texts, names).argmax(1).numpy()
    assert (
        found["nn_accuracy"]
        == found["knn_accuracy"]
        == np.mean(train.records.labels[nearest] == classes.records.labels)
    )
    alone = model.similarity(texts, texts).fill_diagonal_(-1).argmax(1).numpy()
    labels = classes.records.labels
    assert evaluate(model, classes).metrics["nn_accuracy"] == np.mean(labels[alone] == labels)


def test_alignment_of_classes_is_over_the_pairs_of_each(model, classes):
    unit = unit_vectors(model, [row[0] for row in classes.records.rows["texts"]])
    same = np.equal.outer(classes.labels, classes.labels) & ~np.eye(len(unit), dtype=bool)
    expected = np.square(unit[:, None] - unit).sum(2)[same].mean()
    assert evaluate(model, classes).metrics["alignment"] == pytest.approx(expected, abs=1e-5)


def test_classes_that_are_not_in_the_index_are_an_error(model, classes, tmp_path):
    (tmp_path / "a.tsv").write_text("pay\tBilling\nlogin\tAccount\n")
    other = load_data(tmp_path / "a.tsv", model, data_format="classes")
    with pytest.raises(UserError, match="are class names written as in the training data"):
        evaluate(model, classes, EvaluationOptions(index=other))
    with pytest.raises(UserError, match="dev.txt holds pairs: texts with a class"):
        evaluate(model, classes, EvaluationOptions(index=load_data(DATA / "dev.txt", model)))


def test_texts_whose_class_is_not_in_the_index_are_left_out_and_counted(model, classes, tmp_path):
    rows = [f"{row['texts'][0]}\t{row['label']}\n" for row in classes.records.rows.select(range(5))]
    (tmp_path / "a.tsv").write_text("".join(rows))
    known = set(load_data(tmp_path / "a.tsv", model, data_format="classes").records.labels)
    found = evaluate(
        model, classes, EvaluationOptions(index=load_data(tmp_path / "a.tsv", model, data_format="classes"))
    )
    assert found.metrics["n"] == 60
    assert found.metrics["num_queries"] == sum(label in known for label in classes.records.labels) < 60


def test_two_draws_of_dropout_are_compared_with_each_other(model, sentences, monkeypatch):
    views, encode_tokens = [], model.encode_tokens

    def watched(tokens, *, dropout_seed=None, **options):
        found = encode_tokens(tokens, dropout_seed=dropout_seed, **options)
        views.extend([] if dropout_seed is None else [found.double().numpy()])
        return found

    monkeypatch.setattr(model, "encode_tokens", watched)
    found = evaluate(model, sentences).metrics
    first, second = (view / np.linalg.norm(view, axis=1, keepdims=True) for view in views)
    assert found["alignment"] == pytest.approx(np.square(first - second).sum(1).mean(), rel=1e-4)


def test_sentences_are_aligned_with_themselves_under_dropout(model, sentences):
    state = torch.get_rng_state()
    found = evaluate(model, sentences).metrics
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as if nothing had been
    assert found["alignment"] > 0
    # dropout moves a text by less than other texts are away: by Jensen's inequality their mean squared distance is more
    assert found["alignment"] < -found["uniformity"] / 2
    assert found["alignment_plus_uniformity"] == pytest.approx(found["alignment"] + found["uniformity"])
    assert evaluate(model, sentences).metrics["alignment"] == found["alignment"]
    still = SentenceBert(model.backbone.name_or_path, dropout=0, device="cpu")
    assert evaluate(still, sentences).metrics["alignment"] == pytest.approx(0, abs=1e-9)
