"""What a folder of sentence-transformers asks for is done as they do it, or refused."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from cosent import CheckpointError, SentenceBert
from cosent.model.stored import locate

TEXTS = ["How do I reset my Password?", "我要退款", "My parcel is late. " * 9 + "我要退款 " * 9]
SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A folder as sentence-transformers writes it."""
    peer = SentenceTransformer(str(tiny_bert), device="cpu")
    peer.max_seq_length = 20
    peer.save(str(tmp_path))
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_a_folder_of_theirs_loads_as_theirs(folder):
    model = SentenceBert(folder, device="cpu")
    assert model.max_length == 20
    assert_allclose(model.encode(TEXTS), SentenceTransformer(str(folder), device="cpu").encode(TEXTS), **SAME)


@pytest.mark.parametrize(
    "options",
    [
        {"tokenizer_args": {"truncation_side": "left"}},
        {"processor_kwargs": {"truncation_side": "left", "trust_remote_code": True}},
        {"config_args": {"hidden_act": "relu"}},
        {"config_kwargs": {"layer_norm_eps": 0.5}},
        {"model_args": {"attn_implementation": "eager"}, "unpad_inputs": False},
    ],
    ids=str,
)
def test_options_of_the_transformer_are_done_and_saved(folder, tmp_path, options):
    plain = SentenceBert(folder, device="cpu").encode(TEXTS)
    change(folder / "sentence_bert_config.json", **options)
    model = SentenceBert(folder, device="cpu")
    embeddings = model.encode(TEXTS)
    assert_allclose(embeddings, SentenceTransformer(str(folder), device="cpu").encode(TEXTS), **SAME)
    if "model_args" not in options:
        assert abs(embeddings - plain).max() > 1e-3
    model.save_pretrained(tmp_path / "saved")
    assert_allclose(SentenceBert(tmp_path / "saved", device="cpu").encode(TEXTS), embeddings, **SAME)


def test_lower_casing_leaves_special_tokens_alone_as_theirs_does(folder, tmp_path):
    texts = [*TEXTS, "My Card [SEP] my MONEY", "İstanbul ΟΔΟΣ [CLS]"]
    change(folder / "tokenizer_config.json", do_lower_case=False)  # a cased model
    cased = SentenceBert(folder, device="cpu").encode(texts)
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    model = SentenceBert(folder, device="cpu")
    embeddings = model.encode(texts)
    assert_allclose(embeddings, SentenceTransformer(str(folder), device="cpu").encode(texts), **SAME)
    assert abs(embeddings - cased).max() > 1e-3
    model.save_pretrained(tmp_path / "saved")
    for saved in (SentenceBert(tmp_path / "saved", device="cpu"), SentenceTransformer(str(tmp_path / "saved"))):
        assert_allclose(saved.encode(texts), embeddings, **SAME)


def test_float32_weights_that_a_configuration_rounds_are_said(folder, caplog):
    change(folder / "config.json", dtype="bfloat16")
    assert SentenceBert(folder, device="cpu").backbone.dtype == torch.bfloat16
    assert "stores float32 weights, which are rounded to bfloat16" in caplog.text
    caplog.clear()
    SentenceBert(folder, dtype="bfloat16", device="cpu")
    SentenceBert(folder, dtype="bfloat16", device="cpu").backbone.save_pretrained(folder)
    SentenceBert(folder, device="cpu")
    assert not caplog.text


def test_pieces_of_the_feed_forward_layer_change_nothing(folder):
    expected = SentenceBert(folder, device="cpu").encode(TEXTS)
    change(folder / "config.json", chunk_size_feed_forward=3)
    assert_allclose(SentenceBert(folder, device="cpu").encode(TEXTS), expected, **SAME)


def test_embeddings_are_truncated_as_the_folder_says(folder, tmp_path):
    change(folder / "config_sentence_transformers.json", truncate_dim=5)
    model = SentenceBert(folder, device="cpu")
    peer = SentenceTransformer(str(folder), device="cpu")
    assert model.embedding_dim == 5
    assert_allclose(model.encode(TEXTS), peer.encode(TEXTS), **SAME)
    assert_allclose(
        model.encode(TEXTS, normalize_embeddings=True), peer.encode(TEXTS, normalize_embeddings=True), **SAME
    )
    assert_allclose(model.encode(TEXTS, truncate_dim=3), peer.encode(TEXTS, truncate_dim=3), **SAME)
    assert_allclose(model.similarity(TEXTS, TEXTS), peer.similarity(*[peer.encode(TEXTS)] * 2), **SAME)
    model.save_pretrained(tmp_path / "saved")
    assert_allclose(SentenceBert(tmp_path / "saved", device="cpu").encode(TEXTS), peer.encode(TEXTS), **SAME)
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS).shape == (3, 5)


@pytest.mark.parametrize(
    ("filename", "values", "message"),
    [
        ("sentence_bert_config.json", {"new_option": 3}, "does not know new_option"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "transformer_task must be",
        ),
        ("sentence_bert_config.json", {"module_output_name": "scores"}, "module_output_name must be"),
        ("sentence_bert_config.json", {"query_length": 32}, "does not know query_length"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"padding": 1}}},
            "does not know processing_kwargs",
        ),
        ("sentence_bert_config.json", {"model_args": {"use_cache": True}}, "does not know use_cache"),
        ("sentence_bert_config.json", {"tokenizer_args": "left"}, "tokenizer_args must be an object"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "modality_config must be"),
        ("1_Pooling/config.json", {"new_option": 3}, "does not know new_option"),
        ("1_Pooling/config.json", {"embedding_dimension": 7}, "expects 7 dimensions"),
        ("1_Pooling/config.json", {"include_prompt": "no"}, "include_prompt must be true or false"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "model_type must be SentenceTransformer"),
    ],
)
def test_what_is_not_done_is_refused(folder, filename, values, message):
    change(folder / filename, **values)
    with pytest.raises(CheckpointError, match=message):
        SentenceBert(folder)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([(f"sentence_transformers.models.{kind}", "") for kind in ("Normalize", "Pooling")], "chains"),
        ([("my_code.Pooling", "1_Pooling")], "my_code.Pooling, which cosent cannot load"),
        ([("sentence_transformers_extra.models.Pooling", "1_Pooling")], "which cosent cannot load"),
        ([("sentence_transformers.models.WeightedPooling", "1_Pooling")], "which cosent cannot load"),
        (
            [("sentence_transformers.models.Normalize", ""), ("sentence_transformers.models.Pooling", "1_Pooling")],
            "chains",
        ),
        ([("sentence_transformers.models.Pooling", "1_Pooling")] * 2, "chains Transformer, Pooling, Pooling"),
        ([("sentence_transformers.models.Pooling", "../1_Pooling")], "path must be a folder below"),
        ([("sentence_transformers.models.Pooling", "/1_Pooling")], "path must be a folder below"),
        ([("sentence_transformers.models.Pooling", "nowhere")], "config.json is missing"),
    ],
)
def test_modules_are_theirs_and_in_their_order(folder, modules, message):
    first = json.loads((folder / "modules.json").read_text())[0]
    listed = [{"idx": 1, "name": "1", "path": path, "type": kind} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps([first, *listed]))
    with pytest.raises(CheckpointError, match=message):
        SentenceBert(folder)


def test_options_of_a_modules_call_are_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "kwargs": ["task"]}, *modules[1:]]))
    with pytest.raises(CheckpointError, match="kwargs must be left out"):
        SentenceBert(folder)


def test_a_folder_that_our_own_file_calls_whole_has_all_of_its_files(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "modules.json").unlink()
    with pytest.raises(CheckpointError, match="complete checkpoint of cosent, but modules.json is missing"):
        SentenceBert(tmp_path)


@pytest.mark.parametrize("filename", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"])
def test_a_pointer_of_git_lfs_is_no_file(model, tmp_path, filename):
    model.save_pretrained(tmp_path)
    (tmp_path / filename).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer .*git lfs pull"):
        SentenceBert(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][:100].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change(tmp_path / "config.json", vocab_size=100)
    with pytest.raises(CheckpointError, match="the model has only 100 token embeddings"):
        SentenceBert(tmp_path)


def test_more_layers_of_weights_than_layers_are_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    change(tmp_path / "config.json", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="weights of layers that its configuration lacks"):
        SentenceBert(tmp_path)


def test_an_adapter_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="adapter_config.json, but cosent loads only complete models"):
        SentenceBert(tmp_path)


def test_what_an_offline_cache_lacks_is_said(tiny_bert, tmp_path, monkeypatch, caplog):
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    shutil.copytree(tiny_bert, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = [locate("owner/name", name, None) for name in ("config.json", "modules.json")]
    assert found == [str(snapshot / "config.json"), None]
    assert "modules.json is not in the cache" in caplog.text
    assert "config.json is not" not in caplog.text
    caplog.clear()
    no_exist = tmp_path / "models--owner--name" / ".no_exist" / commit
    no_exist.mkdir(parents=True)
    (no_exist / "modules.json").touch()  # as the hub's library notes it when the hub says so
    assert locate("owner/name", "modules.json", None) is None
    assert not caplog.text
