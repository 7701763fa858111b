import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from cosent import DataError
from cosent.data.retrieval import read_qrels, read_texts


@pytest.fixture
def written(tmp_path):
    def write(name: str, content: str | bytes):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


BEIR = "".join(
    json.dumps(row) + "\n"
    for row in (
        {"_id": "b", "title": "A title", "text": " The text.\u2028More. "},
        {"_id": "a", "title": "", "text": "Alone", "metadata": {"url": "x"}},
        {"_id": 7, "text": ""},
    )
)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.jsonl", BEIR, {"b": "A title The text.\u2028More.", "a": "Alone", "7": ""}),
        ("c.jsonl.gz", BEIR, {"b": "A title The text.\u2028More.", "a": "Alone", "7": ""}),
        ("c.jsonl", '{"title": "only"}\n', {"1": "only"}),
        ("c.jsonl", '{"id": 1, "passage": "x", "metadata": {}}\n', None),
        ("c.jsonl", '{"id": 1, "passage": "x"}\n', {"1": "x"}),
        ("c.jsonl", '{"metadata": {}, "title": "t", "question": "q"}\n', {"1": "t q"}),
        ("c.txt", "one\ntwo\none\n", {"1": "one", "2": "two", "3": "one"}),
        ("c.tsv", "q9\tone\nq1\ttwo\n", {"q9": "one", "q1": "two"}),
        ("c.tsv", "text\tlength\tid\nwhy\t3\tx\n", {"x": "why"}),
        ("c.csv", 'id,title,text\n1,T,"a, b"\n2,,c\n', {"1": "T a, b", "2": "c"}),
    ],
)
def test_texts_are_read_with_their_ids_and_titles(written, name, content, expected):
    path = written(name, content)
    if expected is None:
        with pytest.raises(DataError, match="which of 'id', 'passage', 'metadata' holds the texts; give column=NAME"):
            read_texts(path)
        return
    texts = read_texts(path)
    assert texts == expected
    assert list(texts) == list(expected)


def test_tables_are_read(tmp_path):
    parquet.write_table(pyarrow.table({"_id": ["x", "y"], "text": ["a", "b"]}), tmp_path / "c.parquet")
    assert read_texts(tmp_path / "c.parquet") == {"x": "a", "y": "b"}
    qrels = {"query-id": ["q", "q"], "corpus-id": ["x", "y"], "score": [1, 0]}
    parquet.write_table(pyarrow.table(qrels), tmp_path / "q.parquet")
    assert read_qrels(tmp_path / "q.parquet") == {"q": {"x": 1, "y": 0}}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("answer", {"7": "because"}),
        ("2", {"1": "why", "2": "how"}),
        (None, "which of 'id', 'why', 'answer' holds the texts; give column=NAME"),
        ("4", "'4' is none of 'id', 'why', 'answer'; give column=NAME"),
        ("Answer", "'Answer' is none of 'id'"),
    ],
)
def test_a_column_may_be_named_or_numbered(written, column, expected):
    path = written("c.tsv", "id\twhy\tanswer\n7\thow\tbecause\n")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read_texts(path, column=column)
    else:
        assert read_texts(path, column=column) == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.txt", "", "is empty: it holds no rows"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "x"}\n', "line 2: an earlier row has the id 'a'"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n{"text": "x"}\n', "line 2: lacks '_id'"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n{"_id": null, "text": "x"}\n', "line 2: the id is None"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n{"_id": " ", "text": "x"}\n', "line 2: the id is ' '"),
        ("c.jsonl", '{"_id": "a", "text": 5}\n', "line 1: the text is 5, which is no text"),
        ("c.jsonl", '{"_id": "a", "text": "x", "title": 5}\n', "line 1: the title is 5, which is no text"),
        ("c.jsonl", '{"_id": "a", "text": "x"}\n{oops\n', "line 2: is not JSON"),
        ("c.txt", "a\n\nb\n", "1 of 3 rows cannot be used\n  line 2: the text is empty"),
        ("c.tsv", "a\tb\nc\n", "line 2: 1 columns only"),
        ("c.xyz", "a", "is of an unknown kind"),
    ],
)
def test_bad_texts_are_named_by_file_and_line(written, name, content, said):
    path = written(name, content)
    with pytest.raises(DataError) as error:
        read_texts(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t2\nq2\td1\t2\n"),
        ("test.tsv.gz", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t2\n"),
        ("test.tsv", "q1\td1\t1\nq1\td2\t0\nq2\td1\t2\n"),
        ("test.csv", "query_id,corpus_id,score\nq1,d1,1\nq1,d2,0\nq2,d1,2.0\n"),
        ("qrels.dl19", "q1 0 d1 1\nq1 0 d2 0\n\nq2\tQ0\td1  2\n"),
        (
            "test.jsonl",
            '{"query-id": "q1", "corpus-id": "d1", "score": 1}\n{"score": 0, "query-id": "q1", "corpus-id": "d2"}\n'
            '{"query-id": "q2", "corpus-id": "d1", "score": 2}\n',
        ),
    ],
)
def test_judgements_of_beir_and_trec_are_read(written, name, content):
    assert read_qrels(written(name, content)) == {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2}}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.tsv", "", "is empty: it holds no rows"),
        ("q.tsv", "query-id\tcorpus-id\tscore\n", "is empty"),
        ("q.tsv", "query\tdocument\tlabel\nq\td\t1\n", "line 1: the relevance 'label' is no number"),
        ("q.tsv", "q d 1\nq d\n", "1 of 2 rows cannot be used\n  line 2: 2 columns, expected 3"),
        ("q.tsv", "q d 1\nq d 2\n", "line 2: an earlier row has another relevance of d to q"),
        ("q.tsv", "q d nan\n", "line 1: the relevance 'nan' is no number"),
        ("q.tsv", b"q d 1\nq \xff 2\n", "line 2: is not UTF-8"),
        ("q.jsonl", '{"query-id": "q", "score": 1}\n', "line 1: lacks 'corpus-id'"),
        ("q.tsv.gz", "q d 1\n", "is damaged"),
    ],
)
def test_bad_judgements_are_named_by_file_and_line(written, name, content, said):
    path = written(name, content)
    if said == "is damaged":
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError) as error:
        read_qrels(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_file_of_judgements_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_qrels(tmp_path / "qrels")
