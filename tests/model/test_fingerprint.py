import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosent import CheckpointError, SentenceBert
from cosent.model.decision import Decision


@pytest.fixture
def folder(model, tmp_path):
    """A folder of an earlier version, without digests of its files."""
    model.settings.decision = Decision(0.5, "accuracy", 0.9, "dev.tsv", 100)
    model.save_pretrained(tmp_path)
    change(tmp_path / "cosent_config.json", files=None)
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_is_known_again_in_any_type(folder, dtype):
    SentenceBert(folder, device="cpu", dtype=dtype, packing="off")
    SentenceBert(folder, device="cpu", dtype=dtype)


def other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def not_a_number(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][3, 3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_pooling(folder):
    path = folder / "1_Pooling" / "config.json"
    change(path, pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)


def other_lengths(folder):
    modules = json.loads((folder / "modules.json").read_text())
    module = {"idx": 2, "name": "2", "path": "", "type": "sentence_transformers.models.Normalize"}
    (folder / "modules.json").write_text(json.dumps([*modules, {**module, "path": "2_Normalize"}]))


def other_end(folder):
    change(folder / "tokenizer_config.json", truncation_side="left")


def other_activation(folder):
    change(folder / "config.json", hidden_act="relu")


def other_prompt(folder):
    change(folder / "config_sentence_transformers.json", prompts={"q": "a question: "}, default_prompt_name="q")


def no_length(folder):
    (folder / "sentence_bert_config.json").unlink()


def too_great_a_length(folder):
    change(folder / "sentence_bert_config.json", max_seq_length=10**6)


def no_pooling(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


@pytest.mark.parametrize(
    "spoil", [other_weights, not_a_number, other_pooling, other_lengths, other_end, other_activation, other_prompt]
)
def test_a_folder_that_embeds_otherwise_than_what_was_saved_is_refused(folder, spoil):
    spoil(folder)
    with pytest.raises(CheckpointError, match="gives other embeddings than when it was saved"):
        SentenceBert(folder, device="cpu")
    config = json.loads((folder / "cosent_config.json").read_text())
    change(folder / "cosent_config.json", fingerprint=None)  # as the message says
    assert SentenceBert(folder, device="cpu").settings.decision is not None
    assert config["fingerprint"] is not None


@pytest.mark.parametrize("spoil", [no_length, too_great_a_length, no_pooling])
def test_a_folder_that_has_lost_a_setting_is_refused(tiny_bert, tmp_path, spoil):
    model = SentenceBert(tiny_bert, pooling_mode="cls", max_length=17, device="cpu")
    model.save_pretrained(tmp_path)
    change(tmp_path / "cosent_config.json", files=None)
    SentenceBert(tmp_path, device="cpu")
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match="gives other embeddings than when it was saved"):
        SentenceBert(tmp_path, device="cpu")


def test_what_the_caller_changes_is_not_held_against_the_folder(folder, tiny_bert):
    assert SentenceBert(folder, device="cpu", pooling_mode="cls").settings.decision is None
    SentenceBert(folder, device="cpu", max_length=9)
    SentenceBert(folder, device="cpu", normalize_embeddings=True)
    SentenceBert(folder, device="cpu", tokenizer_name=str(tiny_bert))


def test_saving_in_training_leaves_mode_and_generators_alone(model, tmp_path):
    model.train()
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    SentenceBert(tmp_path, device="cpu")  # saved as it is without dropout


@pytest.mark.parametrize(
    "values",
    [{"num_attention_heads": -1}, {"hidden_dropout_prob": float("nan")}, {"num_hidden_layers": 10**20}],
    ids=str,
)
def test_a_configuration_that_cannot_embed_is_one_clear_error(folder, values):
    change(folder / "config.json", **values)
    with pytest.raises(CheckpointError, match="cannot (embed a text|be loaded)|must be at most 1,000"):
        SentenceBert(folder, device="cpu")
