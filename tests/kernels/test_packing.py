import copy
import logging

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from cosent import SentenceBert, UserError
from cosent.kernels.packing import (
    PACKABLE,
    can_pack,
    is_packed,
    sort_by_length,
    token_states,
    use_packed_attention,
)
from cosent.model.pooling import pool

# Names of sizes differ; what a configuration does not know, it ignores.
TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "dim": 32,
    "embedding_size": 16,
    "num_hidden_layers": 3,
    "n_layers": 3,
    "num_attention_heads": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "hidden_dim": 48,
    "max_position_embeddings": 72,
    "initializer_range": 0.1,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "sliding_window": 6,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "cls_token_id": 0,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
LENGTHS = [5, 1, 64, 2, 5, 17, 64, 1]
# Relative positions, or attention of their own.
OTHERS = ["deberta-v2", "mpnet", "roformer"]
SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, summed in another order


def backbone_of(model_type, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **TINY | options)
    backbone = AutoModel.from_config(config, attn_implementation="eager").eval()
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler.requires_grad_(False)
    return backbone


def run(backbone, states_of, lengths=LENGTHS):
    """The states of random tokens, and the gradients of all parameters; one draw decides all."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 100, (sum(lengths),), generator=generator)
    states = states_of(backbone, input_ids, torch.tensor(lengths))
    embeddings = torch.cat([pool(states, torch.tensor(lengths), kind) for kind in ("mean", "max", "cls", "last")])
    backbone.zero_grad()
    (embeddings * torch.randn(embeddings.shape, generator=generator)).sum().backward()
    return states.detach(), {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def one_by_one(backbone, input_ids, lengths, layers="last"):
    states = []
    for text in input_ids.split(lengths.tolist()):
        hidden = backbone(input_ids=text[None], output_hidden_states=True).hidden_states
        states.append(hidden[-1][0] if layers == "last" else (hidden[1][0] + hidden[-1][0]) / 2)
    return torch.cat(states)


def assert_same(found, expected):
    assert_close(found[0], expected[0], **SAME)
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        scale = max(1.0, float(grad.abs().max()))
        assert_close(found[1][name] / scale, grad / scale, **SAME, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("model_type", sorted(PACKABLE))
def test_packed_and_padded_are_each_text_on_its_own(model_type):
    plain = backbone_of(model_type)
    packed = copy.deepcopy(plain)
    assert can_pack(packed)
    use_packed_attention(packed)
    alone = run(plain, one_by_one)
    assert_same(run(plain, token_states), alone)
    assert_same(run(packed, token_states), alone)


@pytest.mark.parametrize("model_type", sorted(PACKABLE))
def test_padding_tokens_within_texts_are_where_the_model_puts_them(model_type):
    plain = backbone_of(model_type)
    packed = copy.deepcopy(plain)
    use_packed_attention(packed)
    texts = [[0, 7, 1, 1, 8, 2], [1, 9, 2], [0, 5, 6, 1], [1], [0, 1, 1, 2]]
    input_ids, lengths = torch.tensor(sum(texts, [])), torch.tensor([len(text) for text in texts])
    with torch.no_grad():
        alone = one_by_one(plain, input_ids, lengths)
        assert_close(token_states(packed, input_ids, lengths), alone, **SAME)
        assert_close(token_states(plain, input_ids, lengths), alone, **SAME)


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_architectures_run_padded(model_type):
    plain = backbone_of(model_type)
    assert not can_pack(plain)
    assert_same(run(plain, token_states), run(plain, one_by_one))


@pytest.mark.parametrize("packed", [True, False])
def test_the_mean_of_the_first_and_the_last_layer(packed):
    plain = backbone_of("bert")
    backbone = copy.deepcopy(plain)
    if packed:
        use_packed_attention(backbone)
    found = run(backbone, lambda *batch: token_states(*batch, layers="first_last"))
    assert_same(found, run(plain, lambda *batch: one_by_one(*batch, layers="first_last")))


@pytest.mark.parametrize("pooling_mode", ["mean", "cls", "max", "last", "pooler", "first_last_avg", "last_avg"])
def test_embeddings_and_gradients_do_not_depend_on_packing(tiny_bert, pooling_mode):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    input_ids = torch.randint(5, 500, (sum(LENGTHS),), generator=generator)
    weights = torch.randn(len(LENGTHS), 32, generator=generator)
    results = []
    for packing in ("on", "off"):
        model = SentenceBert(tiny_bert, packing=packing, pooling_mode=pooling_mode, device="cpu")
        embeddings = model(input_ids, lengths)
        (embeddings * weights).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((embeddings.detach(), gradients))
        # each text on its own, too
        for text, embedding in zip(input_ids.split(LENGTHS), embeddings, strict=True):
            assert_close(model(text, torch.tensor([len(text)]))[0], embedding, **SAME)
    assert_same(*results)


def test_what_packing_means(tiny_bert, tmp_path, caplog):
    assert is_packed(SentenceBert(tiny_bert, device="cpu").backbone)
    assert not is_packed(SentenceBert(tiny_bert, packing="off", device="cpu").backbone)
    assert not is_packed(SentenceBert(tiny_bert, attn_implementation="eager", device="cpu").backbone)
    with pytest.raises(UserError, match="leave out attn_implementation='eager'"):
        SentenceBert(tiny_bert, packing="on", attn_implementation="eager", device="cpu")
    with pytest.raises(UserError, match="packing must be one of auto, on, off, got 'yes'"):
        SentenceBert(tiny_bert, packing="yes", device="cpu")
    backbone_of("mpnet", vocab_size=2500).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, logger="cosent"):
        model = SentenceBert(tmp_path, tokenizer_name=str(tiny_bert), device="cpu")
    assert len([line for line in caplog.messages if "(mpnet) is not known to run without padding" in line]) == 1
    assert not is_packed(model.backbone)
    with pytest.raises(UserError, match="is not known to run without padding; use packing='auto'"):
        SentenceBert(tmp_path, tokenizer_name=str(tiny_bert), packing="on", device="cpu")


def test_code_of_others_is_not_known_to_pack():
    backbone = backbone_of("bert")
    assert can_pack(backbone)
    backbone.__class__ = type("BertModel", (type(backbone),), {"__module__": "transformers_modules.custom"})
    assert not can_pack(backbone)
    decoder = backbone_of("qwen2")
    decoder.config.is_causal = False  # looks both ways
    assert not can_pack(decoder)


def test_a_packed_backbone_takes_no_padding(tiny_bert):
    model = SentenceBert(tiny_bert, device="cpu")
    with pytest.raises(ValueError, match="load it with packing='off'"):
        model.backbone(torch.tensor([[2, 5, 3]]))


def test_activation_checkpointing_draws_the_same_dropout(tiny_bert):
    lengths = torch.tensor(LENGTHS)
    input_ids = torch.randint(5, 500, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    model = SentenceBert(tiny_bert, device="cpu").train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(0)
        embeddings = model(input_ids, lengths)
        embeddings.square().sum().backward()
        results.append(
            (embeddings.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        )
    assert_same(*results)
    torch.manual_seed(1)
    assert not torch.equal(model(input_ids, lengths), results[0][0])  # there is dropout


def test_sorting_by_length():
    input_ids, lengths = torch.tensor([1, 2, 2, 2, 3, 4, 4, 4]), torch.tensor([1, 3, 1, 3])
    ids, sorted_lengths, places = sort_by_length(input_ids, lengths)
    assert ids.tolist() == [2, 2, 2, 4, 4, 4, 1, 3]
    assert sorted_lengths.tolist() == [3, 3, 1, 1]
    assert sorted_lengths[places].tolist() == lengths.tolist()
    assert places.tolist() == [2, 0, 3, 1]


def test_groups_of_similar_length_hold_little_padding(tiny_bert, monkeypatch):
    model = SentenceBert(tiny_bert, packing="off", device="cpu")
    shapes = []
    forward = model.backbone.forward

    def watched(*, attention_mask, **inputs):
        shapes.append((attention_mask.numel(), int(attention_mask.sum())))
        return forward(attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(model.backbone, "forward", watched)
    lengths = torch.arange(1, 65).repeat(4)
    model(torch.randint(5, 500, (int(lengths.sum()),)), lengths)
    assert sum(tokens for _, tokens in shapes) == lengths.sum()
    assert all(places - tokens <= 256 for places, tokens in shapes)
    assert 1 < len(shapes) < 20


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_models_give_the_same_and_are_compiled_a_few_times(tiny_bert, training):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = SentenceBert(tiny_bert, dropout=0.0, device="cpu").train(training)
    compiled = torch.compile(model)
    generator = torch.Generator().manual_seed(0)
    for num_texts in (4, 7, 3, 12, 9, 5, 8):
        lengths = torch.randint(1, 60, (num_texts,), generator=generator)
        input_ids = torch.randint(5, 500, (int(lengths.sum()),), generator=generator)
        gradients = []
        for function in (compiled, model):
            model.zero_grad()
            embeddings = function(input_ids, lengths, int(lengths.max()))
            embeddings.square().sum().backward()
            gradients.append((embeddings.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
        assert_same(*gradients)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@pytest.mark.slow
def test_compiled_gradients_are_of_the_dropout_that_was_drawn(tiny_bert):
    torch._dynamo.reset()
    model = SentenceBert(tiny_bert, dropout=0.3, device="cpu").double().train()
    compiled = torch.compile(model)
    lengths = torch.tensor(LENGTHS)
    input_ids = torch.randint(5, 500, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    weight = model.backbone.encoder.layer[0].attention.self.query.weight

    def total(seed):
        torch.manual_seed(seed)
        return compiled(input_ids, lengths, 64).square().sum()

    total(1).backward()
    step = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype) * 1e-6
    expected = (weight.grad * step).sum()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step)
        values.append(total(1).detach())
        with torch.no_grad():
            weight.sub_(sign * step)
    assert_close((values[0] - values[1]) / 2, expected, rtol=1e-4, atol=0)
    assert total(1) != total(2)
