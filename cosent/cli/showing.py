"""How commands name, show and write what they found."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosent import SentenceBert, TextDataset


def unknown_tokens(data: "TextDataset", model: "SentenceBert") -> str:
    """A remark where the tokenizer does not know the data's language."""
    share = data.token_share(model.tokenizer.unk_token_id)
    return f"; {share:.0%} of tokens are unknown to this model's tokenizer" if share > 0.05 else ""


def show_interval(ends: tuple[float, float] | None) -> str:
    """A metric's interval, or nothing where there is none."""
    return "" if ends is None or math.isnan(ends[0]) else f"{ends[0]:.4f} to {ends[1]:.4f}"


def write_json(path: Path, content: Any) -> None:
    """Write numbers and texts by name; what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    path.write_text(json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
