"""Files that we write."""

import json
import math
from pathlib import Path
from typing import Any


def to_json(content: Any, *, indent: int | None = None) -> str:
    """Format names, texts and numbers as JSON; a number that is not finite, which JSON does not have, becomes null.

    Args:
        content: dicts, lists and tuples of texts, numbers, booleans and None.
        indent: spaces a level. None: all in one line.
    """
    return json.dumps(_plain(content), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, content: Any) -> None:
    """Write `to_json` of some content to a file.

    Args:
        path: the file.
        content: see `to_json`.
    """
    path.write_text(to_json(content, indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
