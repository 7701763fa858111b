"""Output that several commands share."""

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosent import SentenceBert, TextDataset
    from cosent.data.streams import TextStream

_LOOKED_AT = 1_000  # examples from which the language is detected
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_MOSTLY = 0.3  # share of Chinese characters above which texts count as Chinese; digits and punctuation are no letters


def language_gap(data: "TextDataset", model: "SentenceBert") -> str:
    """Make a warning, with suitable models, if the tokenizer does not know the data's language; "" otherwise."""
    texts = _first_texts(data)
    chinese = _is_chinese(texts)
    unknown = data.token_share(model.tokenizer.unk_token_id)
    pieces = int(data.num_tokens(_LOOKED_AT)) / max(len(texts), 1)
    # a byte-level tokenizer has no unknown tokens, but needs two or three for a Chinese character
    if unknown <= 0.05 and not (chinese and pieces > 1.5):
        return ""
    what = f"{unknown:.0%} of the tokens are unknown" if unknown > 0.05 else f"a character takes {pieces:.1f} tokens"
    likely = (
        "a Chinese model, such as hfl/chinese-macbert-base or BAAI/bge-base-zh-v1.5, or a multilingual one, such as "
    )
    other = "a model of their language, or a multilingual one, such as "
    return (
        f"warning: {what}: this model was made for another language than that of these texts. Take "
        f"{likely if chinese else other}BAAI/bge-m3."
    )


def example_pair(data: "TextDataset | TextStream") -> tuple[str, str]:
    """Return two texts that match, for an example of how to use a model: in Chinese if the data is, else in English."""
    if _is_chinese(_first_texts(data)):
        return "怎么重置密码？", "忘记密码了怎么办"
    return "How do I reset my password?", "I forgot my password"


def _first_texts(data: "TextDataset | TextStream") -> str:
    return "".join(text for example in data.head(_LOOKED_AT) for text in example.texts)


def _is_chinese(text: str) -> bool:
    return len(_CHINESE.findall(text)) > _MOSTLY * len(text)


def show_interval(ends: tuple[float, float] | None) -> str:
    """Format a metric's interval; "" if there is none."""
    return "" if ends is None or math.isnan(ends[0]) else f"{ends[0]:.4f} to {ends[1]:.4f}"
