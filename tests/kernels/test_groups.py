from types import SimpleNamespace

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from transformers import CanineConfig, CanineModel, CanineTokenizer, FNetConfig, FNetModel, MPNetConfig, MPNetModel

from cosent import SentenceBert
from cosent.kernels.groups import _group_sizes, check_padding, padded_states

TEXTS = ["a", "How do I reset my password?", "refund " * 12, "我要退款", "two words"]


def test_groups_are_cut_where_a_text_would_be_padded_or_pad_others():
    assert _group_sizes([130, 2, 2, 2], 256) == [3, 1]  # 128 + 128 places of padding, and 128 more
    assert _group_sizes([2, 2, 130], 256) == [3]  # both short texts by 128
    assert _group_sizes([2, 2, 131], 256) == [2, 1]  # by 129
    assert _group_sizes([400], 256) == [1]
    assert _group_sizes([9, 9, 4, 4, 4, 5], 0) == [2, 3, 1]


@pytest.fixture
def save(tokenizer, tmp_path):
    """Saves a backbone with the tests' tokenizer."""

    def saved(backbone):
        backbone.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return saved


def fnet(tokenizer):
    torch.manual_seed(0)
    config = FNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, intermediate_size=32, max_position_embeddings=64
    )
    return FNetModel(config)


def mpnet(tokenizer):
    torch.manual_seed(0)
    return MPNetModel(
        MPNetConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=66,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@pytest.mark.parametrize("pooling_mode", ["mean", "first_last_avg"])
@pytest.mark.parametrize("make", [fnet, mpnet])
def test_a_text_embeds_the_same_alone_and_beside_others(tokenizer, save, make, pooling_mode):
    model = SentenceBert(save(make(tokenizer)), pooling_mode=pooling_mode, device="cpu", max_length=32)
    alone = [model.encode(text) for text in TEXTS]
    assert_allclose(model.encode(TEXTS), alone, rtol=1e-4, atol=1e-5)


def test_only_an_architecture_that_ignores_the_mask_is_never_padded(tokenizer, save, caplog):
    caplog.set_level("INFO")
    SentenceBert(save(mpnet(tokenizer)), device="cpu", max_length=32)
    assert "equal length" not in caplog.text
    SentenceBert(save(fnet(tokenizer)), device="cpu", max_length=32)
    assert "only texts of equal length are batched" in caplog.text


class Strict(nn.Module):
    """An encoder of somebody else's: it takes what it names and gives a tuple."""

    def __init__(self, takes_mask):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.config = SimpleNamespace(pad_token_id=7)
        self.device = torch.device("cpu")
        self.seen = []
        self.takes_mask = takes_mask

    def get_input_embeddings(self):
        return self.embedding


class Masked(Strict):
    def forward(self, input_ids, attention_mask):
        self.seen.append(input_ids)
        return (self.embedding(input_ids) * attention_mask[..., None].float().mean(1, keepdim=True) ** 0,)


class Unmasked(Strict):
    def forward(self, input_ids):
        self.seen.append(input_ids)
        return (self.embedding(input_ids) + self.embedding(input_ids).mean(1, keepdim=True),)


def test_a_strict_forward_is_given_what_it_knows_and_its_own_padding():
    backbone = Masked(True)
    states = padded_states(backbone, torch.arange(5), torch.tensor([3, 2]), {"use_cache": False})
    assert torch.equal(states, backbone.embedding(torch.arange(5)))
    assert backbone.seen[0].tolist() == [[0, 1, 2], [3, 4, 7]]


def test_a_forward_without_a_mask_gets_no_padding():
    backbone = Unmasked(False)
    check_padding(backbone)
    backbone.seen.clear()
    padded_states(backbone, torch.arange(7), torch.tensor([3, 2, 2]), {})
    assert [ids.tolist() for ids in backbone.seen] == [[[0, 1, 2]], [[3, 4], [5, 6]]]


def test_an_architecture_without_token_embeddings_loads(tmp_path):
    config = CanineConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_hash_buckets=64
    )
    torch.manual_seed(0)
    CanineModel(config).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    model = SentenceBert(tmp_path, device="cpu", max_length=32)
    texts = [text for text in TEXTS if len(text) > 6]  # it pools four characters into one
    assert_allclose(model.encode(texts), [model.encode(text) for text in texts], rtol=1e-4, atol=1e-5)
