import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cosent import SentenceBert, load_data
from cosent.cli.showing import example_pair, language_gap
from tests.conftest import DATA


def character_model(folder, known, *, before=()):
    """A model each of whose tokens is a character, behind what comes before."""
    model = SentenceBert(folder, device="cpu")
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *sorted(known)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.Split(Regex("."), "isolated")])
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    return model


def test_an_english_model_is_told_of_chinese_models(minilm):
    model = SentenceBert(minilm, device="cpu")
    gap = language_gap(load_data(DATA / "zh" / "test.txt", model), model)
    assert gap.startswith("warning: ")
    assert "% of the tokens are unknown" in gap
    assert "hfl/chinese-macbert-base" in gap
    assert "\n" not in gap
    assert language_gap(load_data(DATA / "test.txt", model), model) == ""


def test_other_languages_are_told_of_multilingual_models(minilm, tmp_path):
    (tmp_path / "thai.tsv").write_text("สวัสดีครับ\tสวัสดีค่ะ\t1\nลาก่อน\tขอบคุณ\t0\n" * 8, encoding="utf-8")
    model = SentenceBert(minilm, device="cpu")
    gap = language_gap(load_data(tmp_path / "thai.tsv", model), model)
    assert "a model of their language, or a multilingual one" in gap
    assert "chinese" not in gap


def test_bytes_of_chinese_are_no_known_language(tiny_bert):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model = character_model(tiny_bert, byte_level.alphabet(), before=[byte_level])
    gap = language_gap(load_data(DATA / "zh" / "test.txt", model), model)
    assert "a character takes 2." in gap
    assert "hfl/chinese-macbert-base" in gap


def test_a_model_of_the_language_is_not_warned_of(tiny_bert):
    path = DATA / "zh" / "test.txt"
    model = character_model(tiny_bert, set(path.read_text(encoding="utf-8")))
    assert language_gap(load_data(path, model), model) == ""


@pytest.mark.parametrize(
    ("name", "kind"), [("train.txt", "pairs"), ("sentences.txt", "sentences"), ("classes.train.tsv", "classes")]
)
def test_the_example_is_in_the_language_of_the_data(tiny_bert, name, kind):
    model = SentenceBert(tiny_bert, device="cpu")
    chinese, english = (
        example_pair(load_data(folder / name, model, data_format=kind)) for folder in (DATA / "zh", DATA)
    )
    assert chinese == ("怎么重置密码？", "忘记密码了怎么办")
    assert english == ("How do I reset my password?", "I forgot my password")
