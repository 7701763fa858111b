import csv
import json

import numpy as np
import pytest

from cosent import SentenceBert
from cosent.evaluation.search import evaluate_retrieval
from cosent.model.search import search
from tests.cli.conftest import cosent, read_json
from tests.conftest import DATA

CORPUS = DATA / "sentences.txt"
TEXTS = CORPUS.read_text(encoding="utf-8").splitlines()
COLUMNS = ["query", "rank", "score", "text", "query_id", "text_id"]


def expected_rows(tiny_bert, queries, **options):
    hits = search(SentenceBert(tiny_bert, device="cpu"), list(queries.values()), TEXTS, **options)
    return [
        [query, rank + 1, pytest.approx(hits.scores[row, rank], abs=2e-6), TEXTS[hits.indices[row, rank]], name,
         str(hits.indices[row, rank] + 1)]
        for row, (name, query) in enumerate(queries.items())
        for rank in range(hits.indices.shape[1])
    ]  # fmt: skip


def rows_of(table):
    header, *rows = table
    assert header == COLUMNS
    return [[row[0], int(row[1]), float(row[2]), *row[3:]] for row in rows]


def split(text):
    return [line.split("\t") for line in text.splitlines()]


def test_queries_on_the_command_line_are_answered_on_standard_output(tiny_bert):
    done = cosent("search", tiny_bert, "Where is my parcel?", TEXTS[4], "--corpus", CORPUS, "--top_k", "3")
    assert done.status == 0, done.stderr
    assert rows_of(split(done.stdout)) == expected_rows(tiny_bert, {"1": "Where is my parcel?", "2": TEXTS[4]}, top_k=3)
    assert "Compared 2 queries with 500 texts" in done.stderr


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_file_of_queries_keeps_its_ids(tiny_bert, tmp_path, kind):
    (tmp_path / "q.jsonl").write_text('{"_id": "x7", "text": "我的包裹"}\n{"_id": "x8", "text": "parcel"}\n')
    out = tmp_path / "new" / f"hits.{kind}"
    flags = ["--model_name_or_path", tiny_bert, "--queries", tmp_path / "q.jsonl", "--corpus", CORPUS]
    done = cosent("search", *flags, "--output_path", out)
    assert done.status == 0, done.stderr
    assert f"Written to {out}" in done.stdout
    with out.open(encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            table = [json.loads(line) for line in file]
            table = [list(table[0]), *(list(row.values()) for row in table)]
        else:
            table = list(csv.reader(file, delimiter="," if kind == "csv" else "\t"))
    assert rows_of(table) == expected_rows(tiny_bert, {"x7": "我的包裹", "x8": "parcel"})


def test_queries_may_come_from_standard_input(tiny_bert):
    flags = ["--queries", "-", "--corpus", CORPUS, "--top_k", "2", "--query_prompt", "q: ", "--document_prompt", "d: "]
    done = cosent("search", tiny_bert, *flags, stdin=b"one\ntwo\n")
    assert done.status == 0, done.stderr
    options = {"top_k": 2, "query_prompt": "q: ", "document_prompt": "d: "}
    assert rows_of(split(done.stdout)) == expected_rows(tiny_bert, {"1": "one", "2": "two"}, **options)


def test_embeddings_from_disk_give_the_same_hits(tiny_bert, tmp_path):
    out = tmp_path / "x.npy"
    encoded = ["--input_path", CORPUS, "--output_path", out, "--output_dtype", "float16"]
    assert cosent("encode", "--model_name_or_path", tiny_bert, *encoded).status == 0
    done = cosent("search", tiny_bert, *TEXTS[:3], "--corpus", CORPUS, "--corpus_embeddings", out, "--top_k", "1")
    assert done.status == 0, done.stderr
    assert [row[3] for row in rows_of(split(done.stdout))] == TEXTS[:3]


def test_embeddings_of_another_corpus_are_refused(tiny_bert, error_of, tmp_path):
    embeddings = SentenceBert(tiny_bert, device="cpu").encode(TEXTS)
    np.save(tmp_path / "reversed.npy", -embeddings)
    np.save(tmp_path / "short.npy", embeddings[:-1])
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").touch()
    for name, said in (
        ("reversed", "its first and last row have cosines of -1.000 and -1.000"),
        ("short", "holds an array (499, 32); the corpus has 500 texts, and the model 32 dimensions"),
        ("object", "is not a .npy file of embeddings"),
        ("text", "is not a .npy file of embeddings"),
        ("empty", "is not a .npy file of embeddings"),
    ):
        flags = ["--corpus", CORPUS, "--corpus_embeddings", tmp_path / f"{name}.npy"]
        assert said in error_of("search", tiny_bert, "text", *flags)


def test_files_that_would_be_overwritten_are_refused(error_of, tmp_path):
    (tmp_path / "c.tsv").write_text("a\n")
    flags = ["--corpus", tmp_path / "c.tsv", "--output_path", tmp_path / "c.tsv"]
    assert "would be overwritten by its own hits; give another --output_path" in error_of("search", "M", "a", *flags)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A folder of BEIR: queries of the test classes, among texts of the training classes."""
    folder = tmp_path_factory.mktemp("classes")
    test, train = (
        [line.split("\t") for line in (DATA / f"classes.{name}.tsv").read_text(encoding="utf-8").splitlines()]
        for name in ("test", "train")
    )
    for name, prefix, rows in (("queries", "q", test), ("corpus", "d", train)):
        lines = [json.dumps({"_id": f"{prefix}{i}", "text": text}) for i, (text, _) in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judgements = [
        f"q{i}\td{j}\t1" for i, (_, own) in enumerate(test[:-2]) for j, (_, other) in enumerate(train) if own == other
    ]
    (folder / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]))
    return folder, test, train


def test_a_search_is_tested_with_intervals(tiny_bert, judged, tmp_path):
    folder, test, train = judged
    paths = ["--queries", folder / "queries.jsonl", "--corpus", folder / "corpus.jsonl", "--qrels", folder / "test.tsv"]
    flags = ["--model_name_or_path", tiny_bert, "--document_prompt", "d: ", "--num_resamples", "200"]
    done = cosent("test", *flags, *paths, cwd=tmp_path)
    assert done.status == 0, done.stderr
    qrels = {
        f"q{i}": {f"d{j}": 1 for j, (_, other) in enumerate(train) if own == other}
        for i, (_, own) in enumerate(test[:-2])
    }
    expected = evaluate_retrieval(
        SentenceBert(tiny_bert, device="cpu"),
        {f"q{i}": text for i, (text, _) in enumerate(test)},
        {f"d{j}": text for j, (text, _) in enumerate(train)},
        qrels,
        document_prompt="d: ",
        num_resamples=200,
    )
    metrics = read_json(tmp_path / "output" / f"test-{tiny_bert.name}-{folder.name}-corpus" / "metrics.json")
    intervals = metrics.pop("intervals")
    assert metrics.pop("seconds") > 0
    assert metrics == pytest.approx(expected.metrics)
    assert {name: tuple(ends) for name, ends in intervals.items()} == expected.intervals
    assert f"on 98 queries and 163 documents of {folder / 'corpus.jsonl'}" in done.stdout
    assert "2 queries are left out: no document is known to be relevant to them" in done.stdout
    low, high = expected.intervals["ndcg@10"]
    assert f"  {'ndcg@10':26}{expected.metrics['ndcg@10']:8.4f}   95% interval {low:.4f} to {high:.4f}\n" in done.stdout


def test_few_queries_and_ties_are_said(tiny_bert, tmp_path):
    (tmp_path / "q.tsv").write_text("q\tone\n")
    (tmp_path / "c.tsv").write_text("a\tsame\nb\tsame\n")
    (tmp_path / "qrels").write_text("q 0 a 1\n")
    paths = [f"--queries={tmp_path / 'q.tsv'}", f"--corpus={tmp_path / 'c.tsv'}", f"--qrels={tmp_path / 'qrels'}"]
    done = cosent("test", f"--model_name_or_path={tiny_bert}", *paths, f"--output_dir={tmp_path}")
    assert "For 1 queries, documents of different relevance have equal scores: their ids decide" in done.stdout
    assert "There are no intervals: there are fewer than 10 queries" in done.stdout
    assert read_json(tmp_path / "metrics.json")["mrr@5"] == 0.5  # the higher id is first
