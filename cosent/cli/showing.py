"""How commands name and show what they found."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosent import SentenceBert, TextDataset


def unknown_tokens(data: "TextDataset", model: "SentenceBert") -> str:
    """A remark where the tokenizer does not know the data's language."""
    share = data.token_share(model.tokenizer.unk_token_id)
    return f"; {share:.0%} of tokens are unknown to this model's tokenizer" if share > 0.05 else ""


def show_interval(ends: tuple[float, float] | None) -> str:
    """A metric's interval, or nothing where there is none."""
    return "" if ends is None or math.isnan(ends[0]) else f"{ends[0]:.4f} to {ends[1]:.4f}"
