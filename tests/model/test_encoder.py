import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from cosent import CheckpointError, SentenceBert, UserError
from cosent.calibration import Platt
from cosent.model.backbone import position_limit
from cosent.model.decision import Decision
from cosent.model.tokens import tokenize
from cosent.similarity import cosine_matrix

TEXTS = ["How do I reset my password?", "我要退款", "a", "refund " * 40, "我要退款"]
SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently
MODES = ["mean", "cls", "max", "last", "pooler", "first_last_avg", "last_avg"]


@pytest.mark.parametrize("pooling_mode", MODES)
def test_a_text_has_the_same_embedding_whatever_its_neighbours(tiny_bert, pooling_mode):
    model = SentenceBert(tiny_bert, pooling_mode=pooling_mode, device="cpu")
    together = model.encode(TEXTS, batch_size=3)
    assert_allclose(together, [model.encode(text) for text in TEXTS], **SAME)
    assert together.shape == (5, 32)
    assert together.dtype == np.float32
    assert len({tuple(row.round(3)) for row in together}) == 4  # the vacuity guard: texts do differ


@pytest.mark.parametrize("pooling_mode", MODES)
def test_pooling_says_what_it_says(tiny_bert, pooling_mode):
    model = SentenceBert(tiny_bert, pooling_mode=pooling_mode, device="cpu")
    backbone = SentenceBert(tiny_bert, packing="off", pooling_mode=pooling_mode, device="cpu").backbone
    batch = model.tokenizer("How do I pay?", return_tensors="pt")
    with torch.no_grad():
        outputs = backbone(**batch, output_hidden_states=True)
    first, last = outputs.hidden_states[1][0], outputs.hidden_states[-1][0]
    expected = {
        "mean": last.mean(0),
        "last_avg": last.mean(0),
        "cls": last[0],
        "last": last[-1],
        "max": last.max(0).values,
        "pooler": outputs.pooler_output[0],
        "first_last_avg": (first.mean(0) + last.mean(0)) / 2,
    }[pooling_mode]
    assert_allclose(model.encode("How do I pay?"), expected.numpy(), **SAME)


def test_one_text_a_list_and_nothing(model):
    assert model.encode("a").shape == (32,)
    assert model.encode(["a"]).shape == (1, 32)
    assert model.encode(("a", "b")).shape == (2, 32)
    assert model.encode([]).shape == (0, 32)
    assert model.encode([], convert_to_tensor=True).shape == (0, 32)
    assert model.encode("").shape == (32,)


def test_result_types_are_sentence_transformers(model):
    assert isinstance(model.encode(TEXTS, convert_to_tensor=True), torch.Tensor)
    assert isinstance(model.encode("a", convert_to_tensor=True), torch.Tensor)
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert isinstance(rows[0], torch.Tensor)
    assert_allclose(torch.stack(rows), model.encode(TEXTS), **SAME)


def test_each_distinct_text_is_embedded_once(model, monkeypatch):
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, lengths, *more: seen.append(lengths) or forward(ids, lengths))
    embeddings = model.encode(TEXTS * 10)
    assert sum(len(lengths) for lengths in seen) == 4
    assert_allclose(embeddings, np.tile(model.encode(TEXTS), (10, 1)), **SAME)


def test_batches_hold_a_number_of_tokens(model, monkeypatch):
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, lengths, *more: seen.append(lengths) or forward(ids, lengths))
    texts = [f"refund {'refund ' * (i % 9)}{i}" for i in range(300)]
    embeddings = model.encode(texts, batch_size=4)
    tokens = [int(lengths.sum()) for lengths in seen]
    assert all(count <= 4 * 128 for count in tokens)
    assert all(count > 4 * 128 - 64 for count in tokens[:-1])
    assert [int(lengths[0]) for lengths in seen] == sorted((int(lengths.max()) for lengths in seen), reverse=True)
    assert_allclose(embeddings, np.concatenate([model.encode(texts[:7]), model.encode(texts[7:])]), **SAME)


def test_texts_are_tokenised_and_fetched_in_pieces(model, monkeypatch):
    expected = model.encode(TEXTS)
    monkeypatch.setattr("cosent.model.embedding._TOKENIZED_TEXTS", 2)
    monkeypatch.setattr("cosent.model.embedding._FETCHED_TEXTS", 1)
    assert_allclose(model.encode(TEXTS, batch_size=1), expected, **SAME)


def test_normalising_truncating_and_prompting(model):
    plain = model.encode(TEXTS)
    unit = model.encode(TEXTS, normalize_embeddings=True)
    assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), **SAME)
    assert_allclose(model.encode(TEXTS, truncate_dim=5), plain[:, :5], **SAME)
    assert_allclose(np.linalg.norm(model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True), axis=1), 1, **SAME)
    assert_allclose(model.encode("refund", prompt="pay "), model.encode("pay refund"), **SAME)
    with pytest.raises(ValueError, match="between 1 and 32, got 33"):
        model.encode("a", truncate_dim=33)


@pytest.mark.parametrize("training", [True, False])
def test_encode_switches_dropout_off_keeps_the_mode_and_builds_no_graph(model, training):
    model.train(training)
    embeddings = model.encode(TEXTS, convert_to_tensor=True)
    assert not embeddings.requires_grad
    assert model.training is training
    assert model.backbone.training is training
    assert_allclose(embeddings, model.encode(TEXTS), **SAME)


def test_encode_restores_the_mode_after_an_error(model, monkeypatch):
    model.train()
    monkeypatch.setattr(model, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.encode("a")
    assert model.training


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["a", None], r"sentences\[1\] must be a text, got None"),
        (["a", float("nan")], r"sentences\[1\] must be a text, got nan"),
        ([["a", "b"]], r"sentences\[0\]"),
    ],
)
def test_what_is_no_text_is_named(model, sentences, message):
    with pytest.raises(TypeError, match=message):
        model.encode(sentences)


def test_similarity_takes_texts_and_embeddings(model):
    a, b = model.encode(TEXTS[:2]), model.encode(TEXTS[2:4])
    expected = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    for similarity in (
        model.similarity(TEXTS[:2], TEXTS[2:4]),
        model.similarity(a, b),
        model.similarity(torch.from_numpy(a), b.tolist()),
    ):
        assert_allclose(similarity, expected, **SAME)
    assert model.similarity([], TEXTS).shape == (0, 5)
    with pytest.raises(TypeError, match="in a list"):
        model.similarity("a", "b")


def test_predict_scores_and_decides(model):
    pairs = [("我要退款", "我要退款"), ("我要退款", "How do I reset my password?")]
    scores, matches, probabilities = model.predict(pairs, threshold=0.999)
    assert_allclose(scores[0], 1, **SAME)
    assert_allclose(scores[1], model.similarity(*[[text] for text in pairs[1]])[0, 0], **SAME)
    assert matches.tolist() == [True, False]
    assert probabilities is None
    model.settings.decision = Decision(0.5, "f1", 0.9, "dev.tsv", 9, calibration=Platt(10, -5))
    found = model.predict(pairs)
    assert_allclose(found.probabilities, 1 / (1 + np.exp(5 - 10 * found.scores.astype(np.float64))))
    assert found.matches.tolist() == (found.scores >= 0.5).tolist()
    assert model.predict([]).probabilities.shape == (0,)
    model.settings.decision = None
    with pytest.raises(ValueError, match="stores no threshold"):
        model.predict(pairs)
    for wrong in (["ab", "cd"], [{"text1": "a", "text2": "b"}], [("a", "b", "c")]):
        with pytest.raises(ValueError, match="pairs of texts"):
            model.predict(wrong, threshold=0.5)
    with pytest.raises(ValueError, match="finite number, got nan"):
        model.predict(pairs, threshold=float("nan"))
    assert model.predict([], threshold=0.5).scores.shape == (0,)
    assert model.predict(zip(["a", "b"], ["c", "d"], strict=True), threshold=0.5).scores.shape == (2,)


def test_a_score_at_the_threshold_matches_and_one_that_is_next_below_does_not(model):
    pairs = [("我要退款", "How do I reset my password?")]
    score = float(model.predict(pairs, threshold=0).scores[0])
    assert model.predict(pairs, threshold=score).matches.tolist() == [True]
    above = np.nextafter(score, 1)  # as float32, which scores are, it is the score
    assert model.predict(pairs, threshold=above).matches.tolist() == [False]


def test_each_batch_draws_its_own_dropout_whoever_embeds_the_others(model):
    tokens = tokenize(model.tokenizer, ["refund " * 100] * 4, 64)  # one text, in two batches of two
    assert_allclose(model.encode_tokens(tokens, batch_size=1).std(0, correction=0), 0, atol=1e-6)
    found = model.encode_tokens(tokens, batch_size=1, dropout_seed=5)
    assert len(found.unique(dim=0)) == 4
    shares = [model.encode_tokens(tokens, batch_size=1, dropout_seed=5, share=(i, 2)) for i in range(2)]
    assert torch.equal(sum(shares), found)
    assert not (shares[0][2:].any() or shares[1][:2].any())


def test_it_follows_to(model):
    assert model.to(torch.float64).forward(torch.tensor([5, 6]), torch.tensor([2])).dtype == torch.float64
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_half_precision_weights_give_float32_embeddings_close_to_the_exact(tiny_bert, model, dtype):
    half = SentenceBert(tiny_bert, dtype=dtype, device="cpu")
    assert half.backbone.dtype == torch.bfloat16
    embeddings = half.encode(TEXTS)
    assert embeddings.dtype == np.float32
    cosines = nn.functional.cosine_similarity(torch.from_numpy(embeddings), torch.from_numpy(model.encode(TEXTS)))
    assert cosines.min() > 0.99  # bfloat16 has 8 bits of mantissa


def test_the_unused_pooler_is_frozen_and_the_used_one_is_not(tiny_bert):
    def trainable(mode):
        return SentenceBert(tiny_bert, pooling_mode=mode, device="cpu").backbone.pooler.dense.weight.requires_grad

    assert not trainable("mean")
    assert trainable("pooler")


def test_the_choice_of_pooling_is_said(tiny_bert, model, tmp_path, caplog):
    caplog.set_level("INFO", logger="cosent")
    SentenceBert(tiny_bert, device="cpu")
    assert "taking their mean" in caplog.text
    caplog.clear()
    model.save_pretrained(tmp_path)
    SentenceBert(tmp_path, device="cpu")
    assert caplog.text == ""


def test_options_that_cannot_be(tiny_bert, model):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.encode("a", batch_size=0)
    with pytest.raises(UserError, match="device nonsense cannot be used"):
        SentenceBert(tiny_bert, device="nonsense")
    with pytest.raises(ValueError, match="got 'average'"):
        SentenceBert(tiny_bert, pooling_mode="average")
    for max_length in (0, 2, 65, -5):
        with pytest.raises(ValueError, match=f"at most 64, got {max_length}"):
            SentenceBert(tiny_bert, max_length=max_length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": "16"}, "max_length must be a whole number, got '16'"),
        ({"max_length": 16.5}, "max_length must be a whole number, got 16.5"),
        ({"pooling_mode": ["mean"]}, r"pooling_mode must be one of .*, got \['mean'\]"),
        ({"normalize_embeddings": "no"}, "normalize_embeddings must be True, False or None, got 'no'"),
        ({"config_name": "/nonexist"}, "/nonexist does not exist"),
        ({"tokenizer_name": "/nonexist"}, "/nonexist does not exist"),
    ],
)
def test_options_of_another_type_are_refused_at_once(tiny_bert, options, message):
    with pytest.raises(UserError, match=message):
        SentenceBert(tiny_bert, device="cpu", **options)


def test_calls_with_options_of_another_type(model):
    for batch_size in (float("nan"), "8", 2.5, True, None):
        with pytest.raises(UserError, match="batch_size must be a whole number"):
            model.encode("a", batch_size=batch_size)
    with pytest.raises(UserError, match="normalize_embeddings must be True, False or None, got 'no'"):
        model.encode("a", normalize_embeddings="no")
    with pytest.raises(UserError, match="truncate_dim must be a whole number, got 2.5"):
        model.encode("a", truncate_dim=2.5)
    for threshold in (10**400, "high", [0.5]):
        with pytest.raises(UserError, match="the threshold must be a finite number"):
            model.predict([("a", "b")], threshold=threshold)
    with pytest.raises(UserError, match="the name of the model is empty"):
        SentenceBert("")


def test_half_of_a_character_is_named(model):
    with pytest.raises(UserError, match=r"the text 'my \\ud800 card' holds '\\ud800', half of a UTF-16 pair"):
        model.encode(["a", "my \ud800 card"])
    with pytest.raises(UserError, match="half of a UTF-16 pair"):
        model.predict([("a" * 10_000 + "\udfff", "b")], threshold=0.5)


def test_lengths_beyond_float32_have_a_cosine(model):
    for value in (1e30, 1e-30, 3e-39):
        rows = [[value, value], [value, -value], [0.0, 0.0]]
        expected = [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert_allclose(model.similarity(rows, rows), expected, atol=1e-5)
        assert_allclose(model.similarity_pairwise(rows, rows), [1, 1, 0], atol=1e-5)
    rows = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.similarity(rows, rows), cosine_matrix(rows, rows))


def test_position_limit_leaves_out_robertas_offset():
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    backbone = RobertaModel(config)
    limit = position_limit(backbone)
    assert limit == 18
    backbone(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        backbone(torch.full((1, limit + 1), 5))


def test_encoder_decoders_are_refused(tmp_path, tokenizer):
    from transformers import T5Config

    T5Config(vocab_size=10, d_model=8, num_layers=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="encoder-decoder"):
        SentenceBert(tmp_path)


def test_from_pretrained_is_the_constructor(tiny_bert):
    model = SentenceBert.from_pretrained(tiny_bert, pooling_mode="cls", device="cpu")
    assert model.pooling_mode == "cls"
