import json
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from cosent.model import tokens as tokens_module
from cosent.model.tokens import end_with_eos, is_truncated, load_tokenizer, tokenize, tokenizer_digest
from tests.conftest import DATA

TEXTS = [
    "How do I reset my password?",
    "",
    " ",
    "退款什么时候到账",
    "naïve 🙂👩‍👩‍👧 Ⅷ\u200b\tend",
    "[CLS] a <s> refund</s> [MASK] <mask> <note>[SEP]",
    "my parcel is late " * 400,
    "退款" * 500,
]


def bpe(corpus):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _finished(backend, trainers.BpeTrainer(vocab_size=2500, initial_alphabet=alphabet), corpus)


def unigram(corpus):
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return _finished(backend, trainers.UnigramTrainer(vocab_size=2500, unk_token="<unk>"), corpus)


def _finished(backend, trainer, corpus):
    trainer.special_tokens = ["<s>", "</s>", "<unk>", "<mask>"]
    trainer.show_progress = False
    backend.train_from_iterator(corpus, trainer)
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return backend


@pytest.fixture(scope="module")
def make_tokenizer(tokenizer):
    """A fast tokenizer of a kind, with options of its own."""
    corpus = [path.read_text(encoding="utf-8") for path in (DATA / "train.txt", DATA / "zh" / "train.txt")]
    backends = {"bpe": bpe(corpus), "unigram": unigram(corpus)}

    def make(kind, **options):
        options["extra_special_tokens"] = ["<note>"]
        if kind == "wordpiece":
            return BertTokenizer(vocab=tokenizer.get_vocab(), **options)
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
        return PreTrainedTokenizerFast(tokenizer_object=backends[kind], **names, **options)

    return make


def called(tokenizer, texts, max_length):
    """What transformers gives, text by text."""
    return [tokenizer(text, truncation=True, max_length=max_length, verbose=False)["input_ids"] for text in texts]


def tokenized(tokenizer, texts, max_length):
    return [list(row) for row in tokenize(tokenizer, texts, max_length).split()]


@pytest.mark.parametrize("split_special_tokens", [False, True])
@pytest.mark.parametrize("truncation_side", ["left", "right"])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_the_backend_is_called_as_transformers_would(make_tokenizer, kind, truncation_side, split_special_tokens):
    def make(side=truncation_side, split=split_special_tokens):
        return make_tokenizer(kind, truncation_side=side, split_special_tokens=split)

    expected = {limit: called(make(), TEXTS, limit) for limit in (3, 16, 64, 2**31 - 1)}
    fast = make()
    fast("pad", truncation=True, max_length=5, split_special_tokens=not split_special_tokens)
    for limit in (64, 3, 2**31 - 1, 16):
        assert tokenized(fast, TEXTS, limit) == expected[limit]
    assert max(map(len, expected[64])) == 64 < max(map(len, expected[2**31 - 1]))
    assert tokenized(make(side={"left": "right", "right": "left"}[truncation_side]), TEXTS, 16) != expected[16]
    assert tokenized(make(split=not split_special_tokens), TEXTS, 64) != expected[64]


def test_padding_of_an_earlier_call_is_forgotten(make_tokenizer):
    expected = called(make_tokenizer("wordpiece"), TEXTS, 16)
    fast = make_tokenizer("wordpiece")
    fast("refund", padding="max_length", max_length=40)
    assert tokenized(fast, TEXTS, 16) == expected


def test_a_fast_tokenizer_is_not_called(make_tokenizer, monkeypatch):
    fast = make_tokenizer("wordpiece")
    expected = called(fast, TEXTS, 16)
    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", lambda *args, **kwargs: pytest.fail("the slow way"))
    assert tokenized(fast, TEXTS, 16) == expected


class _Spelt(BertTokenizer):
    def _encode_plus(self, text, **options):
        return super()._encode_plus([" ".join(word) for word in text], **options)


class _Called(BertTokenizer):
    def __call__(self, text, **options):
        return super().__call__([" ".join(word) for word in text], **options)


class _Switched(BertTokenizer):
    def _switch_to_input_mode(self):
        self.truncation_side = "left"


@pytest.mark.parametrize("kind", [_Spelt, _Called, _Switched])
def test_what_a_class_does_to_its_texts_is_done(tokenizer, make_tokenizer, kind):
    texts = ["refund", "退款", "How do I reset my password?"]
    own = kind(vocab=tokenizer.get_vocab())
    tokens = tokenized(own, texts, 6)
    assert tokens == own(texts, truncation=True, max_length=6)["input_ids"]
    assert tokens != called(make_tokenizer("wordpiece"), texts, 6)


def test_a_tokenizer_in_python_is_called():
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    assert tokenized(slow, TEXTS, 16) == called(slow, TEXTS, 16)


def test_two_threads_may_share_a_tokenizer(make_tokenizer):
    fast = make_tokenizer("bpe")
    expected = called(make_tokenizer("bpe"), TEXTS, 64)
    with ThreadPoolExecutor(2) as threads:
        for tokens in threads.map(lambda _: tokenized(fast, TEXTS, 64), range(20)):
            assert tokens == expected


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


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize(
    "options", [{"truncation_side": "left"}, {"split_special_tokens": True}], ids=lambda options: next(iter(options))
)
def test_a_digest_tells_all_that_changes_tokens(make_tokenizer, kind, options):
    plain, other = make_tokenizer(kind), make_tokenizer(kind, **options)
    texts = [TEXTS[5], "退款到账 " * 9 + "my parcel is late " * 9]
    same = tokenize(plain, texts, 12).input_ids.tolist() == tokenize(other, texts, 12).input_ids.tolist()
    assert same == (kind == "unigram" and "split_special_tokens" in options)  # whose pieces spell them all the same
    assert tokenizer_digest(plain) != tokenizer_digest(other)
    assert tokenizer_digest(plain) == tokenizer_digest(make_tokenizer(kind))


def test_a_digest_tells_what_stands_for_a_text_without_tokens():
    def digest(**special):
        model = WordLevel({"<eos>": 0, "<pad>": 1, "<unk>": 2}, unk_token="<unk>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
        tokenizer.add_special_tokens({"additional_special_tokens": ["<eos>", "<pad>", "<unk>"]})
        for name, token in special.items():
            setattr(tokenizer, name, token)
        return tokenizer_digest(tokenizer)

    assert len({digest(), digest(pad_token="<pad>"), digest(unk_token="<unk>"), digest(eos_token="<eos>")}) == 3


def test_a_slow_tokenizers_digest_tells_its_options(tmp_path):
    plain = ByT5Tokenizer()
    digests = {tokenizer_digest(tokenizer) for tokenizer in (ByT5Tokenizer(extra_ids=7), ByT5Tokenizer(), plain)}
    assert len(digests) == 2
    plain.truncation_side = "left"
    assert tokenizer_digest(plain) not in digests
    plain.truncation_side = "right"
    copies = [tmp_path / "one", tmp_path / "two"]
    for folder in copies:
        plain.save_pretrained(folder)
    assert len({tokenizer_digest(ByT5Tokenizer.from_pretrained(folder)) for folder in copies}) == 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_have_the_tokens_of_whole_texts(make_tokenizer, kind, side):
    tokenizer = make_tokenizer(kind, truncation_side=side)
    generator = np.random.default_rng(0)
    words = ["my", "parcel", "退款", "到账", "naïve", "🙂", "x" * 150, "[MASK]", "\t", "24", "é" * 30]
    texts = [
        " ".join(generator.choice(words, 4_000)),
        "".join(generator.choice(words, 4_000)),
        "x" * 20_000,
        "退款" * 5_000,
        " " * 20_000 + "end",
        "a" + " " * 20_000,
    ]
    for length in (8, 33):
        whole = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        tokens = tokenize(tokenizer, texts, length)
        assert [row.tolist() for row in tokens.split()] == whole
        cut = [len(row) > length for row in tokenizer(texts)["input_ids"]]
        assert is_truncated(tokenizer, texts, tokens, length) == cut


def test_a_very_long_text_is_not_tokenised_whole(make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer("wordpiece")
    lengths = []
    whole = tokens_module._token_ids
    monkeypatch.setattr(
        tokens_module, "_token_ids", lambda t, texts, n: lengths.extend(map(len, texts)) or whole(t, texts, n)
    )
    assert tokenize(tokenizer, ["my parcel is late " * 100_000], 16).lengths.tolist() == [16]
    assert max(lengths) < 10_000


def test_others_may_use_the_tokenizer_meanwhile(make_tokenizer):
    tokenizer = make_tokenizer("wordpiece")
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
    expected = tokenize(tokenizer, texts, 9).input_ids.tolist()
    done = Event()

    def interfere():
        while not done.is_set():
            tokenizer("my parcel is late", truncation=True, max_length=4)
            tokenizer("my parcel is late", truncation=False)
            tokenizer(["my parcel", "late"], padding=True)

    thread = Thread(target=interfere)
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: tokenize(tokenizer, texts, 9).input_ids.tolist(), range(60)))
    finally:
        done.set()
        thread.join()
    assert all(ids == expected for ids in found)


@pytest.fixture
def bpe_folder(make_tokenizer, tmp_path):
    """A folder of a tokenizer that does not add its end token, though its configuration says so."""
    tokenizer = make_tokenizer("bpe")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "add_eos_token": True}), encoding="utf-8")
    return tmp_path


def test_a_text_ends_with_its_end_token_where_the_configuration_says_so(bpe_folder, tmp_path):
    tokenizer = load_tokenizer(str(bpe_folder))
    assert tokenize(tokenizer, ["a parcel"], 32).input_ids[-1] != tokenizer.eos_token_id
    end_with_eos(tokenizer, str(bpe_folder), "", None)
    for length in (4, 32):
        tokens = tokenize(tokenizer, ["a parcel", "my parcel is late " * 40, ""], length)
        assert [row[0] for row in tokens.split()] == [0, 0, 0]
        assert [row[-1] for row in tokens.split()] == [tokenizer.eos_token_id] * 3
        assert tokens.lengths.max() <= length
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    end_with_eos(again, str(tmp_path / "saved"), "", None)
    assert (
        tokenize(again, ["a parcel"], 32).input_ids.tolist() == tokenize(tokenizer, ["a parcel"], 32).input_ids.tolist()
    )


def test_an_end_token_that_is_there_is_not_added_twice(bpe_folder):
    tokenizer = load_tokenizer(str(bpe_folder))
    end_with_eos(tokenizer, str(bpe_folder), "", None)
    before = tokenize(tokenizer, ["a parcel"], 32).input_ids.tolist()
    end_with_eos(tokenizer, str(bpe_folder), "", None)
    assert tokenize(tokenizer, ["a parcel"], 32).input_ids.tolist() == before


def test_a_class_without_source_shares_no_cache(make_tokenizer):
    scope = {"__name__": "a_notebook", "Parent": PreTrainedTokenizerFast}
    exec("class Own(Parent):\n    def _encode_plus(self, *a, **k): return super()._encode_plus(*a, **k)", scope)
    own = scope["Own"](tokenizer_object=make_tokenizer("bpe").backend_tokenizer, eos_token="</s>")
    assert tokenizer_digest(own) != tokenizer_digest(own)
