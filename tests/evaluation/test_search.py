import random

import numpy as np
import pytest
import pytrec_eval
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from cosent import UserError, evaluate, load_data, read_records
from cosent.evaluation.evaluators import EvaluationOptions
from cosent.evaluation.search import evaluate_retrieval
from cosent.model.search import search
from tests.conftest import DATA

TEXTS = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()[:80]
K_VALUES = (1, 3, 10, 40)
OF_TREC_EVAL = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P", "accuracy": "success"}


def judged_corpus(seed: int):
    """Queries, a corpus with repeated texts, and graded judgements, a few of them below 0."""
    generator = random.Random(seed)
    ids = generator.sample([f"{letter}{number}" for letter in "aZé9中" for number in range(60)], 120)
    corpus = {name: generator.choice(TEXTS[:50]) for name in ids}
    queries = {f"q{number}": text for number, text in enumerate(generator.sample(TEXTS, 25))}
    qrels = {
        name: {document: generator.randrange(-1, 4) for document in generator.sample(ids, generator.choice([1, 4, 70]))}
        for name in queries
    }
    return queries, corpus, qrels


def runs(model, queries, corpus):
    """Each query's score of every document, as trec_eval takes them."""
    hits = search(model, list(queries.values()), list(corpus.values()), top_k=len(corpus))
    ids = list(corpus)
    return {
        name: {ids[i]: float(score) for i, score in zip(indices, scores, strict=True)}
        for name, indices, scores in zip(queries, *hits, strict=True)
    }


def trec_eval(run, qrels):
    """trec_eval's values by query and metric, named as ours."""
    depths = ",".join(map(str, K_VALUES))
    measures = {f"{name}.{depths}" for name in OF_TREC_EVAL.values()}
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    values = {
        query: {f"{name}@{k}": found[query][f"{theirs}_{k}"] for name, theirs in OF_TREC_EVAL.items() for k in K_VALUES}
        for query in found
    }
    for k in K_VALUES:  # trec_eval has no depth for this one, so the run is cut by its rule for ties
        first = {
            query: dict(sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)[:k])
            for query, scores in run.items()
        }
        for query, by_name in pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(first).items():
            values[query][f"mrr@{k}"] = by_name["recip_rank"]
    return values


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_trec_eval_ties_included(model, seed):
    queries, corpus, qrels = judged_corpus(seed)
    result = evaluate_retrieval(model, queries, corpus, qrels, k_values=K_VALUES)
    expected = trec_eval(runs(model, queries, corpus), qrels)
    assert result.metrics["num_tied"] > 3
    assert 0 < result.metrics["num_left_out"] < 15
    assert result.metrics["n"] == len(result.query_ids) == 25 - result.metrics["num_left_out"]
    assert len(result.values) == 6 * len(K_VALUES)
    for name, values in result.values.items():
        np.testing.assert_allclose(values, [expected[query][name] for query in result.query_ids], atol=1e-12)
        assert result.metrics[name] == pytest.approx(values.mean(), abs=1e-12)
        assert result.intervals[name][0] <= result.metrics[name] <= result.intervals[name][1]


def test_the_order_of_the_corpus_does_not_matter(model):
    queries, corpus, qrels = judged_corpus(0)
    shuffled = dict(random.Random(1).sample(list(corpus.items()), len(corpus)))
    results = [evaluate_retrieval(model, queries, each, qrels, num_resamples=0) for each in (corpus, shuffled)]
    assert results[0].metrics == results[1].metrics
    assert results[0].intervals == {}


def test_values_are_those_of_sentence_transformers_without_ties(model, tmp_path):
    model.save_pretrained(tmp_path)
    generator = random.Random(0)
    corpus = {f"d{number}": text for number, text in enumerate(TEXTS[:60])}
    queries = {f"q{number}": text for number, text in enumerate(TEXTS[60:])}
    relevant = {name: set(generator.sample(list(corpus), 6)) for name in queries}
    qrels = {name: dict.fromkeys(documents, 1) for name, documents in relevant.items()}
    depths = {f"{name}_at_k": [1, 10] for name in ("mrr", "ndcg", "accuracy", "precision_recall")}
    # sentence-transformers divides average precision by min(k, R), trec_eval by R: they agree from k = R on
    peer = InformationRetrievalEvaluator(queries, corpus, relevant, map_at_k=[10], **depths)
    expected = peer(SentenceTransformer(str(tmp_path), device="cpu"))
    actual = evaluate_retrieval(model, queries, corpus, qrels, k_values=(1, 10)).metrics
    assert actual["num_tied"] == 0
    assert len(expected) == 11
    for name, value in expected.items():
        assert actual[name.removeprefix("cosine_")] == pytest.approx(value, abs=1e-9)


def test_what_is_the_nearest_text_of_a_class_is_the_first_document(model):
    test, train = (read_records(DATA / f"classes.{name}.tsv", data_format="classes") for name in ("test", "train"))
    labels = [[row["label"] for row in records.rows] for records in (test, train)]
    queries, corpus = ({str(i): text for i, (text,) in enumerate(records.texts)} for records in (test, train))
    qrels = {
        str(i): {str(j): 1 for j, other in enumerate(labels[1]) if other == label} for i, label in enumerate(labels[0])
    }
    index = load_data(DATA / "classes.train.tsv", model, data_format="classes")
    neighbours = evaluate(model, test.tokenize(model), EvaluationOptions(index=index)).metrics
    actual = evaluate_retrieval(model, queries, corpus, qrels).metrics
    assert actual["accuracy@1"] == pytest.approx(neighbours["nn_accuracy"])
    assert actual["n"] == neighbours["num_queries"]


@pytest.mark.parametrize("k_values", [(1, 5), (1, 5, 40)])
def test_a_query_among_the_documents_can_be_left_out(model, k_values):
    corpus = {f"t{number}": text for number, text in enumerate(TEXTS[:30])}
    queries = dict(list(corpus.items())[:12])
    hits = search(model, list(queries.values()), list(corpus.values()), top_k=6)
    qrels = {name: {f"t{row[5]}": 1, "t29": 2} for name, row in zip(queries, hits.indices, strict=True)}
    result = evaluate_retrieval(model, queries, corpus, qrels, k_values=k_values, ignore_identical_ids=True)
    for name, row in zip(result.query_ids, range(12), strict=True):
        others = {document: text for document, text in corpus.items() if document != name}
        alone = evaluate_retrieval(model, {name: queries[name]}, others, qrels, k_values=k_values, num_resamples=0)
        assert {metric: values[row] for metric, values in result.values.items()} == {
            metric: values[0] for metric, values in alone.values.items()
        }
    assert result.metrics["accuracy@5"] == 1  # the sixth document, after the query itself, is the fifth


def test_equal_queries_are_drawn_together(model):
    corpus = {f"d{number}": text for number, text in enumerate(TEXTS[:40])}
    once = {f"q{number}": text for number, text in enumerate(TEXTS[40:60])}
    twice = once | {f"{name}-again": text for name, text in once.items()}
    qrels = {name: {"d1": 1, "d7": 2} for name in twice}
    results = [evaluate_retrieval(model, queries, corpus, qrels) for queries in (once, twice)]
    for name, ends in results[0].intervals.items():
        assert results[1].intervals[name] == pytest.approx(ends, abs=1e-12)
    assert results[0].intervals["mrr@100"][0] < results[0].intervals["mrr@100"][1]


def test_judgements_that_cannot_be_used_are_said(model, caplog):
    queries, corpus = {"q": TEXTS[0]}, {"a": TEXTS[0], "b": TEXTS[1]}
    result = evaluate_retrieval(model, queries, corpus, {"q": {"a": 1, "gone": 1}, "other": {"a": 1}})
    assert result.metrics["recall@100"] == 0.5
    assert "1 judged queries are not among the queries" in caplog.text
    assert "1 relevant documents are not in the corpus" in caplog.text
    for qrels in ({}, {"q": {"a": 0}}, {"other": {"a": 1}}):
        with pytest.raises(UserError, match="none of the 1 queries has a relevant document"):
            evaluate_retrieval(model, queries, corpus, qrels)
    for k_values in ((), (0, 5)):
        with pytest.raises(UserError, match="k_values must all be at least 1"):
            evaluate_retrieval(model, queries, corpus, {"q": {"a": 1}}, k_values=k_values)
