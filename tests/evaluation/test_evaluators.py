import math

import numpy as np
import pytest

from cosent import UserError, load_pairs
from cosent.evaluation.evaluators import evaluate_pairs, is_match, pair_metric_names
from cosent.evaluation.metrics import DECISION
from tests.conftest import DATA

COUNTS = {"n", "seconds", "texts_per_second"}


@pytest.fixture
def binary(model):
    return load_pairs(DATA / "zh" / "dev.txt", model)


@pytest.fixture
def graded(model):
    return load_pairs(DATA / "dev.txt", model)


def test_scores_are_the_cosines_of_the_pairs_in_their_order(model, binary):
    scores = evaluate_pairs(model, binary.tokens, batch_size=7).scores
    pairs = list(zip(binary.records["text1"], binary.records["text2"], strict=True))
    np.testing.assert_allclose(scores, model.predict(pairs, threshold=0).scores, rtol=1e-5, atol=1e-5)


def test_metrics_are_those_that_labels_allow(model, binary, graded):
    assert set(evaluate_pairs(model, graded.tokens).metrics) == {"spearman", "pearson"} | COUNTS
    found = evaluate_pairs(model, graded.tokens, positive_label_min=4).metrics
    assert set(found) == set(pair_metric_names(graded.labels, 4)) | COUNTS
    found = evaluate_pairs(model, binary.tokens).metrics
    assert set(found) == set(pair_metric_names(binary.labels)) | COUNTS
    found = evaluate_pairs(model, binary.tokens, threshold=0.5).metrics
    assert set(found) == set(pair_metric_names(binary.labels)) | set(DECISION) | COUNTS
    assert found["n"] == len(binary)


def test_the_best_threshold_attains_the_best_accuracy(model, binary):
    best = evaluate_pairs(model, binary.tokens).metrics
    found = evaluate_pairs(model, binary.tokens, threshold=best["best_threshold"]).metrics
    assert found["accuracy"] == best["best_accuracy"]


def test_each_distinct_text_is_embedded_once(model, binary, monkeypatch):
    seen = []
    encode_tokens = model.encode_tokens
    monkeypatch.setattr(
        model, "encode_tokens", lambda tokens, **kw: seen.append(len(tokens)) or encode_tokens(tokens, **kw)
    )
    evaluate_pairs(model, binary.tokens)
    texts = [*binary.records["text1"], *binary.records["text2"]]
    distinct = {tuple(row) for row in model.tokenizer(texts)["input_ids"]}
    assert seen == [len(distinct)]
    assert len(distinct) < 2 * len(binary)


def test_a_default_prompt_counts_in_evaluation_as_it_does_in_use(model):
    model.settings.prompts, model.settings.default_prompt_name = {"query": "怎么 "}, "query"
    binary = load_pairs(DATA / "zh" / "dev.txt", model)
    pairs = list(zip(binary.records["text1"], binary.records["text2"], strict=True))
    scores = model.predict(pairs, threshold=0).scores
    np.testing.assert_allclose(evaluate_pairs(model, binary.tokens).scores, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [0.9, 3.8])
def test_a_label_that_equals_the_minimum_is_a_match(model, tmp_path, limit):
    (tmp_path / "a.tsv").write_text(f"refund\trefund\t{limit}\npassword\tcard\t0.2\n")
    found = evaluate_pairs(model, load_pairs(tmp_path / "a.tsv", model).tokens, positive_label_min=limit).metrics
    assert found["best_f1"] == 1.0


@pytest.mark.parametrize(("limit", "message"), [(6, "no label reaches"), (0, "every label reaches")])
def test_a_minimum_that_separates_nothing_is_refused(model, graded, limit, message):
    with pytest.raises(UserError, match=f"{message} --positive_label_min {limit}: they go from 0 to 5"):
        evaluate_pairs(model, graded.tokens, positive_label_min=limit)


def test_a_selection_of_rows_is_evaluated_alone(model, binary):
    part = binary.select(np.arange(5, 20))
    whole = evaluate_pairs(model, binary.tokens).scores[5:20]
    np.testing.assert_allclose(evaluate_pairs(model, part.tokens).scores, whole, rtol=1e-5, atol=1e-5)


def test_a_collapsed_model_has_no_correlation_and_no_skill(model, binary):
    for parameter in model.parameters():
        parameter.data.zero_()
    found = evaluate_pairs(model, binary.tokens).metrics
    assert math.isnan(found["spearman"])
    assert found["best_accuracy"] == max(np.mean(binary.labels), 1 - np.mean(binary.labels))
    assert found["roc_auc"] == 0.5


def test_a_model_that_went_to_nan_is_an_error(model, binary):
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        evaluate_pairs(model, binary.tokens)


def test_what_counts_as_a_match():
    assert is_match(np.array([0.0, 1.0, 1.0])).tolist() == [False, True, True]
    assert is_match(np.array([0.0, 1.0, 2.0])) is None
    assert is_match(np.array([0.0, 3.0, 4.0]), 3).tolist() == [False, True, True]


def test_the_bundled_backbone_has_its_published_score(minilm, shared_data):
    from cosent import SentenceBert

    model = SentenceBert(minilm, device="cpu")
    test = load_pairs(shared_data / "stsb_en" / "test.tsv", model)
    assert evaluate_pairs(model, test.tokens).metrics["spearman"] == pytest.approx(0.8203, abs=5e-5)
