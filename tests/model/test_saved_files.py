"""A folder of which a file is no longer the one that was saved is refused, though its fingerprint is the same."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosent import CheckpointError, SentenceBert
from cosent.model.checkpoint import read_settings, write_training
from tests.model.test_fingerprint import change


@pytest.fixture
def folder(tiny_bert, tmp_path):
    model = SentenceBert(tiny_bert, pooling_mode="cls", max_length=17, device="cpu")
    model.settings.lower_case = True
    model.truncate_dim = 9
    model.save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change_them):
    weights = load_file(folder / "model.safetensors")
    change_them(weights["embeddings.word_embeddings.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def zeroed_rows(folder):
    change_weights(folder, lambda rows: rows[-50:].zero_())


def swapped_rows(folder):
    change_weights(folder, lambda rows: rows[-50:].copy_(rows[-50:].flip(0)))


def zeroed_half(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def swapped_ids(folder):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def other_cut(folder):
    change(folder / "config_sentence_transformers.json", truncate_dim=8)


def no_cut(folder):
    (folder / "config_sentence_transformers.json").unlink()


def other_length(folder):
    change(folder / "sentence_bert_config.json", max_seq_length=10**6)


def null_length(folder):
    change(folder / "sentence_bert_config.json", max_seq_length=None)


def no_length(folder):
    (folder / "sentence_bert_config.json").unlink()


def no_lower_case(folder):
    change(folder / "sentence_bert_config.json", do_lower_case=False)


def no_pooling(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))


def split_special_tokens(folder):
    change(folder / "tokenizer_config.json", split_special_tokens=True)


def other_type(folder):
    change(folder / "config.json", dtype="bfloat16")


SPOILERS = [
    *(zeroed_rows, swapped_rows, zeroed_half, swapped_ids, other_cut, no_cut, other_length, null_length, no_length),
    *(no_lower_case, no_pooling, split_special_tokens, other_type),
]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_changed_file_is_named(folder, spoil):
    spoil(folder)
    with pytest.raises(CheckpointError, match=r"\.(json|safetensors) is (missing|damaged)"):
        SentenceBert(folder, device="cpu")
    with pytest.raises(CheckpointError, match=r"\.(json|safetensors) is (missing|damaged)"):
        SentenceBert(folder, max_length=9, pooling_mode="mean", dtype="bfloat16", device="cpu")


def test_another_models_weights_are_not_taken_even_in_half_precision(folder, tiny_bert, tmp_path):
    other = SentenceBert(tiny_bert, dtype="bfloat16", device="cpu")
    with torch.no_grad():
        other.backbone.encoder.layer[0].output.dense.weight.mul_(1.001)
    other.backbone.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        SentenceBert(folder, device="cpu")


def test_weights_that_are_loaded_into_a_model_are_those_that_were_saved(folder, model):
    model.load_weights(folder)
    zeroed_half(folder)
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        model.load_weights(folder)


def test_another_layout_of_json_is_no_change(folder):
    for path in folder.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    SentenceBert(folder, device="cpu")
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True, indent=7))
    SentenceBert(folder, device="cpu")


def test_a_saved_tokenizer_does_not_depend_on_its_latest_call(model, tmp_path):
    for number, length in enumerate((8, 16, None)):
        if length is not None:
            model.tokenizer(["a text"] * 2, truncation=True, max_length=length, padding="max_length")
        model.save_pretrained(tmp_path / str(number))
    assert len({(tmp_path / str(number) / "tokenizer.json").read_bytes() for number in range(3)}) == 1


def test_what_was_changed_on_purpose_can_be_kept(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    halved = {name: weight.bfloat16() if weight.is_floating_point() else weight for name, weight in weights.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match='remove "files" from cosent_config.json'):
        SentenceBert(folder, device="cpu")
    change(folder / "cosent_config.json", files=None)
    model = SentenceBert(folder, device="cpu")
    model.save_pretrained(tmp_path / "kept")
    assert read_settings(str(tmp_path / "kept")).files
    SentenceBert(tmp_path / "kept", device="cpu")


def test_all_that_writes_a_folder_keeps_its_digests_right(folder, model):
    model.save_pretrained(folder)  # over another model
    SentenceBert(folder, device="cpu")
    model.settings.prompts = {"query": "a question: "}
    model.save_pretrained(folder)
    loaded = SentenceBert(folder, device="cpu")
    loaded.settings.decision = 0.5
    write_training(folder, loaded.settings)  # as `cosent calibrate` does
    assert SentenceBert(folder, device="cpu").settings.decision.threshold == 0.5
    model.save_pretrained(folder, state_dict=model.state_dict())  # gathered from several ranks
    assert read_settings(str(folder)).fingerprint is None
    SentenceBert(folder, device="cpu")
    zeroed_rows(folder)
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        SentenceBert(folder, device="cpu")


@pytest.mark.parametrize("name", ["../secret.json", "/dev/zero", "a\\b", ""])
def test_only_files_of_the_folder_are_read(folder, name):
    change(folder / "cosent_config.json", files={name: {"checksum": "1 00000000"}})
    with pytest.raises(CheckpointError, match="must name files of its own folder"):
        SentenceBert(folder, device="cpu")
