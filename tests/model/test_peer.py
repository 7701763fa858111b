"""sentence-transformers' evaluators and utilities take a SentenceBert, and find what they find for its saved folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.testing import assert_allclose, assert_array_equal
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    ParaphraseMiningEvaluator,
    RerankingEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)

from cosent import SentenceBert, UserError
from tests.conftest import DATA

SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently
ROWS = [line.split("\t") for line in (DATA / "dev.txt").read_text(encoding="utf-8").splitlines()]
FIRST, SECOND = [row[0] for row in ROWS], [row[1] for row in ROWS]
LABELS = [float(row[2]) for row in ROWS]
MATCHES = [int(label >= 4) for label in LABELS]
TRIPLETS = [line.split("\t") for line in (DATA / "triplets.train.tsv").read_text(encoding="utf-8").splitlines()[:50]]
PROMPTS = {"query": "a question: ", "document": "an answer: ", "other": "something: "}
TEXTS = ["How do I reset my password?", "我要退款", "a", "refund " * 100, "a"]


@pytest.fixture
def folder(model: SentenceBert, tmp_path: Path) -> Path:
    """A folder with prompts, saved by us."""
    model.settings.prompts = dict(PROMPTS)
    model.settings.default_prompt_name = "other"
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def ours(folder: Path) -> SentenceBert:
    return SentenceBert(folder, device="cpu")


@pytest.fixture
def theirs(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def retrieval(**options) -> InformationRetrievalEvaluator:
    queries = dict(enumerate(FIRST[:40]))
    corpus = dict(enumerate(dict.fromkeys(SECOND)))  # without duplicates, which would tie
    number = {text: i for i, text in corpus.items()}
    names = {str(i): text for i, text in queries.items()}, {f"d{i}": text for i, text in corpus.items()}
    return InformationRetrievalEvaluator(*names, {str(i): {f"d{number[SECOND[i]]}"} for i in queries}, **options)


EVALUATORS = {
    "similarity": lambda: EmbeddingSimilarityEvaluator(FIRST, SECOND, LABELS),
    "similarity, truncated": lambda: EmbeddingSimilarityEvaluator(FIRST, SECOND, LABELS, truncate_dim=9),
    "similarity by all functions": lambda: EmbeddingSimilarityEvaluator(
        FIRST, SECOND, LABELS, similarity_fn_names=["cosine", "dot", "euclidean", "manhattan"]
    ),
    **{
        f"similarity in {precision}": lambda precision=precision: EmbeddingSimilarityEvaluator(
            FIRST, SECOND, LABELS, precision=precision
        )
        for precision in ("float32", "int8", "uint8", "binary", "ubinary")
    },
    "classification": lambda: BinaryClassificationEvaluator(FIRST, SECOND, MATCHES),
    "triplets": lambda: TripletEvaluator(*zip(*(row[:3] for row in TRIPLETS), strict=True)),
    "retrieval": retrieval,
    "retrieval with a prompt": lambda: retrieval(query_prompt_name="other", truncate_dim=9),
    "reranking": lambda: RerankingEvaluator(
        [{"query": a, "positive": [b], "negative": SECOND[50:60]} for a, b in zip(FIRST[:9], SECOND[:9], strict=True)]
    ),
    "translation": lambda: TranslationEvaluator(FIRST[:50], SECOND[:50]),
    "paraphrases": lambda: ParaphraseMiningEvaluator(
        {str(i): text for i, text in enumerate(FIRST[:20] + SECOND[:20])}, [(str(i), str(i + 20)) for i in range(20)]
    ),
}


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("similarity_fn_name", ["cosine", "euclidean"])
def test_evaluators_find_the_same(ours, theirs, name, similarity_fn_name, tmp_path):
    ours.similarity_fn_name = theirs.similarity_fn_name = similarity_fn_name
    evaluator = EVALUATORS[name]
    found, expected = evaluator()(ours, output_path=str(tmp_path)), evaluator()(theirs)
    assert found.keys() == expected.keys()
    assert len(expected) > 0
    # a rounding may swap two neighbours, or move a value across a step of a byte
    tolerance = 2e-3 if "in " in name else 1e-4
    assert_allclose([found[key] for key in expected], list(expected.values()), rtol=tolerance, atol=tolerance)


def test_a_teacher_of_either_kind(ours, theirs):
    for teacher, student in ((theirs, ours), (ours, theirs)):
        evaluator = MSEEvaluator(FIRST[:20], FIRST[:20], teacher_model=teacher)
        assert_allclose(evaluator(student)["negative_mse"], 0, atol=1e-6)


def test_paraphrases_are_mined(ours, theirs):
    texts = list(dict.fromkeys(FIRST[:40] + SECOND[:40]))
    found, expected = (util.paraphrase_mining(model, texts, prompt_name="query")[:50] for model in (ours, theirs))
    assert [row[1:] for row in found] == [row[1:] for row in expected]
    assert_allclose([row[0] for row in found], [row[0] for row in expected], **SAME)


def test_hard_negatives_are_mined(ours, theirs, tmp_path):
    data = Dataset.from_dict({"query": FIRST[:60], "answer": SECOND[:60]})
    options = {"num_negatives": 2, "absolute_margin": 0.01, "output_scores": True, "verbose": False}
    found, expected = (
        util.mine_hard_negatives(data, model, cache_folder=str(tmp_path / type(model).__name__), **options)
        for model in (ours, theirs)
    )
    assert found["negative"] == expected["negative"]
    assert len(found) > 20
    assert_allclose(found["scores"], expected["scores"], **SAME)
    cached = util.mine_hard_negatives(data, ours, cache_folder=str(tmp_path / "SentenceBert"), **options)
    assert cached["negative"] == found["negative"]


def test_a_search_and_communities_take_our_tensors(ours, theirs):
    queries, corpus = FIRST[:9], SECOND
    found, expected = (
        util.semantic_search(
            model.encode_query(queries, convert_to_tensor=True),
            model.encode_document(corpus, convert_to_tensor=True),
            score_function=model.similarity,
            top_k=5,
        )
        for model in (ours, theirs)
    )
    for hits, others in zip(found, expected, strict=True):
        scores = [hit["score"] for hit in others]
        assert [hit["score"] for hit in hits] == pytest.approx(scores, abs=1e-5)
        # a tiny model's cosines may be so close that rounding changes their order, and only then
        is_clear = np.diff(scores, append=-1.0) < -1e-5
        clear = [at for at in range(5) if is_clear[at] and (at == 0 or is_clear[at - 1])][:-1]
        assert [hits[at]["corpus_id"] for at in clear] == [others[at]["corpus_id"] for at in clear]
    groups = [
        util.community_detection(model.encode(corpus, convert_to_tensor=True), threshold=0.9, min_community_size=2)
        for model in (ours, theirs)
    ]
    assert [set(group) for group in groups[0]] == [set(group) for group in groups[1]] != []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "yes: "},
        {"prompt": "", "prompt_name": "query"},
        {"truncate_dim": 9},
        {"truncate_dim": 9, "normalize_embeddings": True},
        {"precision": None},
        {"device": "cpu"},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
    ],
)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_embeddings_are_the_same(ours, theirs, method, options):
    for texts in (TEXTS, TEXTS[0]):
        found, expected = (getattr(model, method)(texts, **options) for model in (ours, theirs))
        assert type(found) is type(expected)
        if isinstance(found, list):
            found, expected = torch.stack(found), torch.stack(expected)
        assert_allclose(found, expected, **SAME)
    plain = ours.encode(TEXTS)
    assert np.abs(ours.encode_query(TEXTS) - plain).max() > 1e-3  # the vacuity guard: prompts do differ


def test_a_model_without_prompts_has_the_peers_empty_ones(model, tmp_path):
    model.settings.prompts = {"passage": "an answer: "}
    model.settings.default_prompt_name = "passage"
    model.save_pretrained(tmp_path)
    ours, theirs = SentenceBert(tmp_path, device="cpu"), SentenceTransformer(str(tmp_path), device="cpu")
    assert ours.prompts == theirs.prompts == {"query": "", "document": "", "passage": "an answer: "}
    for method in ("encode", "encode_query", "encode_document"):
        assert_allclose(getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS), **SAME)
    ours.prompts = {"passage": "an answer: "}  # a prompt that is not there is the default one
    assert_allclose(ours.encode_query(TEXTS), theirs.encode(TEXTS), **SAME)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_low_precision_is_the_peers(ours, theirs, precision):
    found, expected = (model.encode(FIRST, precision=precision) for model in (ours, theirs))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    steps = np.abs(found.astype(int) - expected.astype(int))
    assert (steps > 0).mean() < 1e-3  # where a rounding crosses a step
    assert ours.encode(TEXTS, precision=precision, convert_to_tensor=True).dtype == torch.from_numpy(found).dtype
    assert ours.encode([], precision=precision).shape == (0, found.shape[1])


def test_ranges_come_from_given_texts(ours):
    embeddings = ours.encode(FIRST, truncate_dim=9, normalize_embeddings=True, prompt="q: ")
    expected = util.quantize_embeddings(embeddings[:5], "int8", calibration_embeddings=embeddings)
    options = {"truncate_dim": 9, "normalize_embeddings": True, "prompt": "q: ", "precision": "int8"}
    found = ours.encode(FIRST[:5], calibration_texts=FIRST, **options)
    assert np.abs(found.astype(int) - expected).max() <= 1
    ranges = np.stack([embeddings.min(0), embeddings.max(0)])
    assert np.abs(ours.encode(FIRST[:5], ranges=ranges, **options).astype(int) - expected).max() <= 1
    assert ours.encode(FIRST[0], calibration_texts=FIRST, **options).shape == (9,)
    with pytest.raises(UserError, match="which one text does not show"):
        ours.encode("a", precision="int8")


def test_token_embeddings_are_the_peers(ours, theirs):
    found, expected = (model.encode(TEXTS, output_value="token_embeddings") for model in (ours, theirs))
    longest = max(map(len, expected))  # the peer pads the texts of a batch
    assert longest == 64 == len(found[3])
    for mine, other in zip(found, expected, strict=True):
        assert_allclose(mine, other[: len(mine)], **SAME)
    one = ours.encode(TEXTS[0], output_value="token_embeddings")
    assert_allclose(one, theirs.encode(TEXTS[0], output_value="token_embeddings"), **SAME)
    assert ours.encode([], output_value="token_embeddings") == []


@pytest.mark.parametrize("packing", ["on", "off"])
def test_everything_about_a_text_is_the_peers(folder, theirs, packing):
    ours = SentenceBert(folder, packing=packing, device="cpu")
    options = {"output_value": None, "truncate_dim": 9}
    found, expected = ours.encode(TEXTS[0], **options), theirs.encode(TEXTS[0], **options)
    assert found.keys() <= expected.keys()
    for name, value in found.items():
        assert_allclose(value, expected[name], **SAME)
    several = ours.encode(TEXTS, **options)
    assert [len(text["input_ids"]) for text in several] == [len(text["token_embeddings"]) for text in several]
    assert_allclose(several[0]["token_embeddings"], found["token_embeddings"], **SAME)
    assert several[2] is several[4]  # equal texts are embedded once


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": {"input": None}}, UserError, "pool is not supported: .*torchrun -m cosent encode"),
        ({"chunk_size": 5}, UserError, "chunk_size is not supported"),
        ({"device": ["cpu", "cpu"]}, UserError, "device must be one device"),
        ({"device": "nonsense"}, UserError, "device nonsense cannot be used"),
        ({"prompt_name": "nonsense"}, UserError, "one of query, document, other, got 'nonsense'"),
        ({"precision": "int4"}, UserError, "got 'int4'"),
        ({"output_value": "words"}, UserError, "output_value must be .* got 'words'"),
        ({"truncate_dim": 0}, UserError, "between 1 and 32, got 0"),
        ({"batchsize": 3}, TypeError, "unexpected keyword argument 'batchsize'"),
    ],
)
def test_options_that_cannot_be_followed(ours, options, error, message):
    with pytest.raises(error, match=message):
        ours.encode(TEXTS, **options)


def test_a_model_that_is_there_is_not_moved(ours, monkeypatch):
    monkeypatch.setattr(ours, "to", lambda device: pytest.fail("moved"))
    ours.encode("a", device="cpu")
    ours.encode("a", device=torch.device("cpu"))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_the_peers(ours, theirs, name):
    ours.similarity_fn_name = theirs.similarity_fn_name = name
    a, b = ours.encode(TEXTS), ours.encode(FIRST[:5])
    for x, y in ((a, b), (torch.from_numpy(a), b), (list(a), list(b)), (list(torch.from_numpy(a)), b)):
        assert_allclose(ours.similarity(x, y), theirs.similarity(a, b), rtol=1e-4, atol=1e-4)
        assert_allclose(ours.similarity_pairwise(x, y), theirs.similarity_pairwise(a, b), rtol=1e-4, atol=1e-4)
    assert_allclose(ours.similarity(a[0], b), theirs.similarity(a[0], b), rtol=1e-4, atol=1e-4)
    assert_allclose(ours.similarity(TEXTS, FIRST[:5]), ours.similarity(a, b), rtol=1e-4, atol=1e-4)
    half = torch.from_numpy(a).bfloat16()
    assert ours.similarity(half, half).dtype == torch.float32


def test_settings_have_the_peers_names(ours, theirs, tmp_path):
    def read(model):
        names = ("max_seq_length", "truncate_dim", "similarity_fn_name", "prompts", "default_prompt_name")
        values = [getattr(model, name) for name in names]
        return [*values, model.get_embedding_dimension(), model.get_max_seq_length(), str(model.device)]

    assert read(ours) == read(theirs)
    assert ours.get_sentence_embedding_dimension() == 32
    for model in (ours, theirs):
        model.max_seq_length, model.truncate_dim, model.similarity_fn_name = 7, 9, "dot"
        model.prompts, model.default_prompt_name = {"query": "", "document": "", "x": "y"}, "x"
    assert read(ours) == read(theirs)
    assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), **SAME)
    assert_allclose(ours.encode(TEXTS, truncate_dim=32), theirs.encode(TEXTS, truncate_dim=32), **SAME)
    ours.save_pretrained(tmp_path / "again")
    assert read(SentenceBert(tmp_path / "again", device="cpu")) == read(ours)
    assert read(SentenceTransformer(str(tmp_path / "again"), device="cpu")) == read(ours)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_seq_length", 65, "at most 64, got 65"),
        ("truncate_dim", 33, "between 1 and 32, got 33"),
        ("similarity_fn_name", "maxsim", "one of cosine, dot, euclidean, manhattan, got 'maxsim'"),
        ("default_prompt_name", "nonsense", "one of query, document, other, got 'nonsense'"),
    ],
)
def test_settings_that_cannot_be(ours, name, value, message):
    before = getattr(ours, name)
    with pytest.raises(UserError, match=message):
        setattr(ours, name, value)
    assert getattr(ours, name) == before


def test_a_similarity_that_we_lack_is_the_cosine_as_for_the_peer(model, tmp_path):
    model.settings.similarity_fn_name = "maxsim"
    model.save_pretrained(tmp_path)
    ours, theirs = SentenceBert(tmp_path, device="cpu"), SentenceTransformer(str(tmp_path), device="cpu")
    assert ours.similarity_fn_name == theirs.similarity_fn_name == "cosine"


def test_texts_may_come_in_any_sequence(ours):
    pandas = pytest.importorskip("pandas")
    expected = ours.encode(FIRST[:9])
    column = Dataset.from_dict({"text": FIRST[:9]})["text"]
    for texts in (tuple(FIRST[:9]), np.array(FIRST[:9]), pandas.Series(FIRST[:9], index=range(5, 14)), column):
        assert_array_equal(ours.encode(texts), expected)


def test_the_model_is_shown_in_a_few_lines(ours):
    ours.settings.decision = 0.7
    ours.truncate_dim = 9
    lines = str(ours).splitlines()
    assert lines[0] == f"SentenceBert({ours.name_or_path!r})"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        *("backbone", "pooling", "max length", "dimensions", "decision")
    ]
    for words in ("BertModel", "float32 on cpu", "mean", "64 tokens", "9, the first of 32", "0.7000 (set by hand"):
        assert words in str(ours)
    assert "BertLayer" in repr(ours.backbone)


def test_the_example_of_the_class_runs(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/all-MiniLM-L6-v2").symlink_to(tiny_bert)
    text = SentenceBert.__doc__.split("Example::")[1].split("Args:")[0]
    scope = {"SentenceBert": SentenceBert}
    exec("\n".join(line.strip() for line in text.splitlines()), scope)
    assert scope["embeddings"].shape == (2, 32)
    assert scope["scores"].shape == scope["matches"].shape == (1,)
    assert SentenceBert("output/my-model", device="cpu").settings.decision.threshold == 0.7
