import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from cosent.tokens import is_truncated, tokenize, tokenizer_digest


def test_tokens_are_the_tokenizers_own_without_padding(tokenizer):
    texts = ["How do I reset my password?", "退款", "a"]
    tokens = tokenize(tokenizer, texts, max_length=64)
    assert [list(row) for row in tokens.split()] == [tokenizer(text)["input_ids"] for text in texts]


def test_texts_are_cut_and_the_cut_is_told_from_a_text_that_just_fits(tokenizer):
    texts = ["refund refund refund", "refund refund", "refund"]
    limit = len(tokenizer(texts[1])["input_ids"])
    tokens = tokenize(tokenizer, texts, max_length=limit)
    assert tokens.lengths.tolist() == [limit, limit, limit - 1]
    assert tokens.split()[0][-1] == tokenizer.sep_token_id
    assert is_truncated(tokenizer, texts, tokens, limit) == [True, False, False]


def test_ids_are_equal_exactly_where_tokens_are(tokenizer):
    ids = tokenize(tokenizer, ["Refund", "refund", "refund refund", "password"], max_length=64).text_ids()
    assert ids[0] == ids[1]  # the tokenizer lower-cases
    assert len(np.unique(ids)) == 3


def test_no_texts(tokenizer):
    tokens = tokenize(tokenizer, [], max_length=8)
    assert len(tokens) == 0
    assert tokens.split() == []
    assert tokens.text_ids().shape == (0,)


def test_a_text_without_tokens_gets_one_that_means_nothing():
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<eos>": 0, "refund": 1}, unk_token="<eos>")), eos_token="<eos>"
    )
    tokens = tokenize(plain, ["refund", "", "refund"], max_length=8)
    assert [list(row) for row in tokens.split()] == [[1], [0], [1]]


def test_digest_forgets_earlier_calls_but_not_the_vocabulary(tokenizer):
    before = tokenizer_digest(tokenizer)
    tokenizer(["a b c"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_digest(tokenizer) == before
    other = type(tokenizer)(vocab={**tokenizer.get_vocab(), "brandnewword": len(tokenizer)})
    assert tokenizer_digest(other) != before
