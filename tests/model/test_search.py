import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search

from cosent import UserError
from cosent.model import search as searching
from cosent.model.search import DOCUMENT_PROMPTS, QUERY_PROMPTS, nearest, prompt_for, search
from tests.conftest import DATA

TEXTS = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()[:60]


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(scores: torch.Tensor, k: int) -> list[list[int]]:
    """The k best columns of each row, by score, then by place."""
    return [sorted(range(len(row)), key=lambda column: (-row[column], column))[:k] for row in scores.tolist()]


@pytest.mark.parametrize("block_size", [1, 7, 101, 1000])
@pytest.mark.parametrize("top_k", [1, 10, 101, 500])
def test_hits_are_those_of_sentence_transformers(model, top_k, block_size):
    queries, corpus = random_rows(9, 32), random_rows(101, 32, seed=1)
    hits = search(model, queries, corpus, top_k=top_k, block_size=block_size)
    expected = semantic_search(queries, corpus, top_k=top_k)
    assert hits.indices.tolist() == [[hit["corpus_id"] for hit in row] for row in expected]
    np.testing.assert_allclose(hits.scores, [[hit["score"] for hit in row] for row in expected], atol=1e-6)
    assert (hits.indices.dtype, hits.scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("block_size", [2, 5, 40])
@pytest.mark.parametrize("top_k", [1, 3, 6, 40])
def test_equal_scores_stand_in_the_order_of_the_corpus(monkeypatch, top_k, block_size):
    monkeypatch.setattr(searching, "_SCORES_AT_ONCE", 3 * block_size)  # three queries at a time
    # unit vectors along the axes have cosines of exactly 0 and 1
    corpus = torch.eye(4)[torch.randint(4, (40,), generator=torch.Generator().manual_seed(2))]
    queries = torch.eye(4)
    hits = nearest(queries, corpus.split(block_size), top_k)
    assert hits.indices.tolist() == brute_force(queries @ corpus.T, top_k)


def test_texts_are_found_as_their_embeddings_are(model):
    queries, corpus = TEXTS[:5], TEXTS[5:]
    scores = model.similarity(queries, corpus)
    for block_size in (10, 1000):
        hits = search(model, queries, corpus, top_k=7, block_size=block_size)
        assert hits.indices.tolist() == brute_force(scores, 7)
        np.testing.assert_allclose(hits.scores, np.sort(-scores.numpy(), axis=1)[:, :7] * -1, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 4, 5, 9])
def test_each_occurrence_of_a_text_is_a_hit_with_the_same_score(model, top_k):
    corpus = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2]]
    hits = search(model, TEXTS[0], corpus, top_k=top_k, block_size=2)
    second, third = model.similarity([TEXTS[0]], [TEXTS[1], TEXTS[2]])[0].tolist()
    others = [0, 4, 2, 6] if second > third else [2, 6, 0, 4]
    assert hits.indices.tolist() == [[1, 3, 5, *others][:top_k]]
    assert len(set(hits.scores[0].tolist())) == len({corpus[i] for i in hits.indices[0]})


@pytest.mark.parametrize("top_k", range(1, 9))
def test_different_texts_with_equal_scores_stand_in_the_order_of_the_corpus(model, monkeypatch, top_k):
    def by_first_letter(encoder, texts, **options):
        return torch.eye(32)[[ord(text[0]) - ord("a") for text in texts]]

    monkeypatch.setattr(searching, "embed_texts", by_first_letter)
    corpus = ["a1", "b1", "a2", "b1", "a1", "a2", "c1", "a2"]
    hits = search(model, ["a", "b"], corpus, top_k=top_k, block_size=3)
    assert hits.indices.tolist() == [[0, 2, 4, 5, 7, 1, 3, 6][:top_k], [1, 3, 0, 2, 4, 5, 6, 7][:top_k]]


def test_each_distinct_text_is_embedded_once_and_no_more_than_a_block_at_a_time(model, monkeypatch):
    calls, embed_texts = [], searching.embed_texts

    def counted(encoder, texts, **options):
        calls.append(list(texts))
        return embed_texts(encoder, texts, **options)

    monkeypatch.setattr(searching, "embed_texts", counted)
    search(model, TEXTS[:3], TEXTS * 3, block_size=25)
    assert [len(call) for call in calls] == [3, 25, 25, 10]
    assert sum(calls[1:], []) == TEXTS


def test_a_memory_mapped_file_is_read_a_block_at_a_time(model, tmp_path):
    embeddings = model.encode(TEXTS).astype(np.float16)
    np.save(tmp_path / "x.npy", embeddings)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = search(model, TEXTS[:4], torch.from_numpy(embeddings))
    actual = search(model, TEXTS[:4], mapped, block_size=16)
    np.testing.assert_array_equal(actual.indices, expected.indices)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(actual.indices, search(model, TEXTS[:4], mapped.tolist()).indices)
    assert actual.indices[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("queries", "corpus", "shape"),
    [
        ("one", ["a", "b"], (1, 2)),
        (["one"], [], (1, 0)),
        ([], ["a", "b"], (0, 2)),
        ([], ["a", "a", "b"], (0, 3)),
        ([], [], (0, 0)),
        ("one", np.empty((0, 32)), (1, 0)),
        (torch.ones(3, 32, dtype=torch.bfloat16), torch.ones(2, 32, dtype=torch.float64), (3, 2)),
    ],
)
def test_shapes_hold_for_nothing_too(model, queries, corpus, shape):
    hits = search(model, queries, corpus)
    assert hits.indices.shape == hits.scores.shape == shape


def test_an_embedding_of_zeros_has_a_cosine_of_zero(model):
    hits = search(model, torch.zeros(1, 32), random_rows(3, 32))
    assert (hits.indices.tolist(), hits.scores.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


@pytest.mark.parametrize("prompts", [{"query": "query: ", "document": "passage: "}, {"query": "query: "}, {}])
def test_queries_and_documents_take_the_prompts_that_sentence_transformers_gives_them(model, tmp_path, prompts):
    model.settings.prompts, model.settings.default_prompt_name = {**prompts, "other": "other: "}, "other"
    model.save_pretrained(tmp_path)
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    expected = peer.similarity(peer.encode_query(TEXTS[:2]), peer.encode_document(TEXTS[2:6]))
    actual = search(model, TEXTS[:2], TEXTS[2:6])
    np.testing.assert_allclose(actual.scores, expected.sort(dim=1, descending=True).values, atol=1e-5)
    other = search(model, TEXTS[:2], TEXTS[2:6], query_prompt="other: ", document_prompt="other: ")
    assert np.abs(actual.scores - other.scores).max() > 1e-3


def test_prompts_are_the_given_one_or_the_first_that_is_stored(model):
    model.settings.prompts = {"corpus": "c: ", "passage": "p: ", "query": "q: "}
    assert prompt_for(model, QUERY_PROMPTS) == "q: "
    assert prompt_for(model, DOCUMENT_PROMPTS) == "p: "
    assert prompt_for(model, DOCUMENT_PROMPTS, "") == ""
    assert prompt_for(model, QUERY_PROMPTS, "given: ") == "given: "


def test_mistakes_are_named(model):
    bad = random_rows(30, 32)
    bad[21, 3] = float("nan")
    for error, said, queries, corpus, options in (
        (UserError, "top_k must be at least 1, got 0", "a", ["b"], {"top_k": 0}),
        (UserError, "block_size must be at least 1", "a", ["b"], {"block_size": 0}),
        (UserError, "batch_size must be at least 1", "a", ["b"], {"batch_size": 0}),
        (UserError, r"corpus\[21\] is not finite", "a", bad, {"block_size": 8}),
        (UserError, r"queries\[21\] is not finite", bad, ["b"], {}),
        (UserError, "32 dimensions, but the corpus has 31", "a", random_rows(4, 31), {}),
        (UserError, r"must be texts or embeddings \(N, D\), got shape \(32,\)", "a", torch.ones(32), {}),
        (TypeError, "put a single text in a list", "a", "b", {}),
        (TypeError, r"\[1\] must be a text, got 7", "a", ["b", 7], {}),
    ):
        with pytest.raises(error, match=said):
            search(model, queries, corpus, **options)
