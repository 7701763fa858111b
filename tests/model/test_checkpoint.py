import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AlbertConfig, AlbertModel

from cosent import CheckpointError, SentenceBert
from cosent.calibration import Isotonic, Platt
from cosent.model.checkpoint import read_settings
from cosent.model.decision import Decision

TEXTS = ["How do I reset my password?", "我要退款", "a", "refund " * 100]
SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling_mode", ["mean", "cls", "max", "last", "last_avg"])
def test_a_checkpoint_is_the_same_model_everywhere(tiny_bert, tmp_path, pooling_mode, normalize):
    model = SentenceBert(
        tiny_bert, pooling_mode=pooling_mode, normalize_embeddings=normalize, max_length=17, device="cpu"
    )
    model.save_pretrained(tmp_path)
    expected = model.encode(TEXTS)
    reloaded = SentenceBert(tmp_path, device="cpu")
    assert (reloaded.max_length, reloaded.normalize_embeddings) == (17, normalize)
    assert_allclose(reloaded.encode(TEXTS), expected, **SAME)
    peer = SentenceTransformer(str(tmp_path), device="cpu")
    assert peer.max_seq_length == 17
    assert_allclose(peer.encode(TEXTS), expected, **SAME)
    peer.save(str(tmp_path / "theirs"))
    theirs = SentenceBert(tmp_path / "theirs", device="cpu")
    assert theirs.max_length == 17
    assert_allclose(theirs.encode(TEXTS), expected, **SAME)


@pytest.mark.parametrize("pooling_mode", ["pooler", "first_last_avg"])
def test_pooling_that_the_peer_lacks_is_an_error_there_and_no_other_model(tiny_bert, tmp_path, pooling_mode):
    model = SentenceBert(tiny_bert, pooling_mode=pooling_mode, device="cpu")
    model.save_pretrained(tmp_path)
    reloaded = SentenceBert(tmp_path, device="cpu")
    assert reloaded.pooling_mode == pooling_mode
    assert_allclose(reloaded.encode(TEXTS), model.encode(TEXTS), **SAME)
    with pytest.raises(ValueError, match=pooling_mode):
        SentenceTransformer(str(tmp_path), device="cpu")


def test_the_bundled_backbone_loads_as_sentence_transformers_loads_it(minilm):
    texts = ["A man is eating food.", "words " * 400]
    model = SentenceBert(minilm, device="cpu")
    assert (model.pooling_mode, model.max_length, model.normalize_embeddings) == ("mean", 256, True)
    assert_allclose(model.encode(texts), SentenceTransformer(str(minilm), device="cpu").encode(texts), **SAME)


def test_prompts_and_default_prompt_are_kept_and_used(model, tmp_path):
    model.settings.prompts = {"query": "query: "}
    model.settings.default_prompt_name = "query"
    model.save_pretrained(tmp_path)
    reloaded = SentenceBert(tmp_path, device="cpu")
    assert_allclose(reloaded.encode("refund"), model.encode("query: refund", prompt=""), **SAME)
    assert_allclose(
        SentenceTransformer(str(tmp_path), device="cpu").encode("refund"), reloaded.encode("refund"), **SAME
    )


def test_loss_and_decision_travel_with_the_checkpoint(model, tmp_path):
    model.settings.loss = {"name": "CoSENTLoss", "scale": 20.0}
    model.save_pretrained(tmp_path)
    model.settings.base_model = "some/base"
    for calibration in (None, Platt(1 / 3, -0.1), Isotonic([0.1, 0.7], [1 / 3, 0.9])):
        decision = Decision(0.1 + 0.2, "accuracy", 0.9, "dev.tsv", 100, positive_label_min=3.0, calibration=calibration)
        model.settings.decision = decision
        model.save_pretrained(tmp_path)
        settings = SentenceBert(tmp_path, device="cpu").settings
        assert settings.decision == decision  # to the last bit of every number
    assert settings.base_model == "some/base"
    assert settings.loss == {"name": "CoSENTLoss", "scale": 20.0}


def test_a_decision_does_not_outlive_its_pooling_and_may_know_more_than_we_do(model, tmp_path):
    model.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 100)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "cosent_config.json").read_text())
    config["decision"]["from_a_later_version"] = 1
    (tmp_path / "cosent_config.json").write_text(json.dumps(config))
    assert SentenceBert(tmp_path, device="cpu").settings.decision == model.settings.decision
    assert SentenceBert(tmp_path, pooling_mode="mean", device="cpu").settings.decision is not None
    assert SentenceBert(tmp_path, pooling_mode="cls", device="cpu").settings.decision is None


@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        ("modules.json", {"a": 1}, "must hold a list of modules"),
        ("modules.json", [1], "module 0 must hold an object, got 1"),
        ("modules.json", [{"idx": 0}], "module 0: type must be a text, got None"),
        ("1_Pooling/config.json", {"pooling_mode": 1}, "pooling_mode must be a text, or a list of texts, got 1"),
        ("cosent_config.json", {"decision": 1}, "decision must be an object, got 1"),
        ("cosent_config.json", {"decision": {"threshold": 1}}, "metric must be a text, got None"),
        ("cosent_config.json", {"loss": "CoSENT"}, "loss must be an object, got 'CoSENT'"),
        ("cosent_config.json", [], r"cosent_config.json must hold an object, got \[\]"),
        (
            "cosent_config.json",
            {"fingerprint": {"embeddings": [[1, "a"]], "dtype": "", "tokens": ""}},
            r"embeddings\[0\]\[1\] must be a finite number, got 'a'",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length must be a whole number, 1 or more"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "of 2 leaves no room for a token"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "a must be a text, got 1"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, r"one of the prompts \(none\), got"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim must be a whole number, 1 or more"),
    ],
)
def test_a_configuration_of_another_form_is_one_clear_error(model, tmp_path, filename, content, message):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    (tmp_path / filename).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        SentenceBert(tmp_path)


def test_an_old_roberta_folder_keeps_its_length(model, tmp_path):
    model.max_length = 9
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    (tmp_path / "sentence_bert_config.json").rename(tmp_path / "sentence_roberta_config.json")
    assert SentenceBert(tmp_path, device="cpu").max_length == 9


def test_a_folder_without_tokenizer_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        SentenceBert(tmp_path)


def test_a_pooler_of_another_kind_is_refused(tokenizer, tmp_path):
    config = AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    AlbertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert SentenceBert(tmp_path, device="cpu").encode(["a", "b"]).shape == (2, 8)
    with pytest.raises(CheckpointError, match="no pooler module"):
        SentenceBert(tmp_path, pooling_mode="pooler")


def test_weights_are_safetensors_and_nothing_is_pickled(model, tmp_path):
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "modules.json", "README.md", "tokenizer.json", "cosent_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert (
        len({path.stat().st_mode for path in tmp_path.iterdir() if path.is_file()}) == 1
    )  # whoever reads one reads all


def test_a_folder_of_runs_names_a_run(model, tmp_path):
    model.save_pretrained(tmp_path / "bert-20260101-000000")
    with pytest.raises(CheckpointError, match="perhaps you mean .*bert-20260101-000000"):
        SentenceBert(tmp_path)


def test_what_is_no_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="neither config.json nor modules.json"):
        SentenceBert(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        SentenceBert(tmp_path / "file")
    with pytest.raises(CheckpointError, match="does not exist"):
        SentenceBert(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="does not exist"):
        SentenceBert("./missing")


def test_a_hub_id_that_cannot_be_reached_says_what_to_do():
    with pytest.raises(CheckpointError, match="HF_ENDPOINT"):
        SentenceBert("nobody/no-such-model")


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("kept", [100, 5000])
def test_a_truncated_weights_file_is_one_clear_error(model, tmp_path, kept, ours):
    model.save_pretrained(tmp_path)
    if not ours:
        (tmp_path / "cosent_config.json").unlink()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged"):
        SentenceBert(tmp_path)


def test_damaged_json_names_its_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(CheckpointError, match="modules.json is damaged"):
        SentenceBert(tmp_path)


def drop_weights(folder, prefix):
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_encoder_weights_are_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    drop_weights(tmp_path, "encoder.layer.1.")
    with pytest.raises(CheckpointError, match="lacks 16 weights of its encoder"):
        SentenceBert(tmp_path)


def test_a_missing_pooler_matters_only_where_it_pools(model, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "cosent_config.json").unlink()  # a folder of other origin
    drop_weights(tmp_path, "pooler.")
    assert_allclose(SentenceBert(tmp_path, device="cpu").encode(TEXTS), model.encode(TEXTS), **SAME)
    with pytest.raises(CheckpointError, match="without a pooler"):
        SentenceBert(tmp_path, pooling_mode="pooler")


@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}],
            "is a sentence_transformers.models.Dense",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pools by weightedmean"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, r"pools by cls \+ mean"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "prompt out of the pooling"),
    ],
)
def test_modules_that_we_cannot_reproduce_are_refused(model, tmp_path, filename, content, message):
    model.save_pretrained(tmp_path)
    (tmp_path / filename).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        SentenceBert(tmp_path)


def test_an_old_folder_with_the_backbone_in_a_subfolder(model, tmp_path):
    model.save_pretrained(tmp_path)
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for path in list(tmp_path.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "README.md"):
            path.rename(inner / path.name)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert read_settings(str(tmp_path)).subfolder == "0_Transformer"
    assert_allclose(SentenceBert(tmp_path, device="cpu").encode(TEXTS), model.encode(TEXTS), **SAME)


def test_resaving_does_not_move_a_weight(model, tmp_path):
    model.save_pretrained(tmp_path / "one")
    SentenceBert(tmp_path / "one", device="cpu").save_pretrained(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert np.isfinite(SentenceBert(tmp_path / "two", device="cpu").encode("a")).all()
