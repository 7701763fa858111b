"""Damages every settings file of a checkpoint, value by value, and tells what comes of it.

    python -m tests.model.damaged_settings

A model then loads and embeds as before, or there is one error of ours; anything else is bad: another exception, or a
model that embeds otherwise without a word.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosent import SentenceBert, UserError

TEXTS = ["How do I reset my Password?", "我要退款", "My parcel is late. " * 9 + "退款 " * 40]

_MISSING = object()
_VALUES = [
    *(_MISSING, None, True, False, 0, -1, 1, 3, 10**400, 0.5, float("nan"), "", "x", "../x"),
    *([], [1], ["a"], [[]], {}, {"a": 1}, {"a": {"b": []}}),
]
_FILES = [
    *("modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "cosent_config.json", "config.json", "tokenizer_config.json"),
    "tokenizer.json",
]
_DEPTH = 3  # of a file's values; a vocabulary is one value


class Damage(NamedTuple):
    """A file, and what it holds instead; None: the file is missing."""

    filename: str
    what: str
    content: bytes | None


def damages(folder: Path) -> Iterator[Damage]:
    """All damages of a folder's files."""
    for filename in _FILES:
        path = folder / filename
        if not path.exists():
            continue
        whole = path.read_bytes()
        yield Damage(filename, "missing", None)
        for what, content in (
            *(("cut in half", whole[: len(whole) // 2]), ("empty", b""), ("not UTF-8", b"\xff\xfe" + whole)),
            *(("too deep", b"[" * 100_000), ("a number", b"1"), ("a list", b"[]"), ("nothing in it", b"{}")),
        ):
            yield Damage(filename, what, content)
        content = json.loads(whole)
        for place in _places(content):
            for value in _VALUES:
                changed = copy.deepcopy(content)
                _put(changed, place, value)
                shown = "missing" if value is _MISSING else f"{value!r:.30}"
                text = json.dumps(changed).encode()
                if text != json.dumps(content).encode():
                    yield Damage(filename, f"{'.'.join(map(str, place))}: {shown}", text)
    for path in sorted(folder.glob("*.safetensors")):
        whole = path.read_bytes()
        for what, content in (
            *(("cut", whole[:-1]), ("cut in half", whole[: len(whole) // 2]), ("empty", b""), ("short", whole[:5])),
            *(("no header", whole[8:]), ("text", b"hello " * 99), ("a page", b"<!DOCTYPE html><html></html>")),
            ("zeros", whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)),
        ):
            yield Damage(path.name, what, content)


def outcome(folder: Path, damage: Damage, expected: np.ndarray) -> str:
    """What comes of a damage: "the same", the error of ours, or "bad: ..."."""
    path = folder / damage.filename
    whole = path.read_bytes()
    if damage.content is None:
        path.unlink()
    else:
        path.write_bytes(damage.content)
    try:
        model = SentenceBert(folder, device="cpu")
        embeddings = model.encode(TEXTS)
        model.predict([("a", "b")])
    except UserError as error:
        return f"error: {error}" if len(str(error)) < 2_000 else f"bad: {len(str(error)):,} characters of message"
    except Exception as error:
        return f"bad: {type(error).__name__}: {error}"
    finally:
        path.write_bytes(whole)
    same = embeddings.shape == expected.shape and np.allclose(embeddings, expected, rtol=1e-3, atol=1e-3)
    return "the same" if same else "bad: other embeddings without a word"


def _places(content: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if len(before) == _DEPTH or not isinstance(content, dict | list) or len(content) > 40:
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*before, key)
        yield from _places(value, (*before, key))


def _put(content: Any, place: tuple[str | int, ...], value: Any) -> None:
    *outer, last = place
    for key in outer:
        content = content[key]
    if value is _MISSING:
        del content[last]
    else:
        content[last] = value


def main() -> None:
    """Try all damages of a small model, and print those that end badly."""
    from tests.conftest import build_tiny_bert, build_tokenizer

    with tempfile.TemporaryDirectory() as place:
        tiny = build_tiny_bert(Path(place) / "tiny", build_tokenizer())
        number = bad = 0
        for has_digests in (True, False):
            folder, expected = saved_model(tiny, Path(place) / f"saved-{has_digests}", has_digests=has_digests)
            for damage in damages(folder):
                number += 1
                found = outcome(folder, damage, expected)
                if found.startswith("bad"):
                    bad += 1
                    print(f"{damage.filename}: {damage.what}: {found[:300]}", flush=True)
        print(f"{number:,} tried, {bad:,} bad")
        sys.exit(bool(bad))


def saved_model(tiny: Path, folder: Path, *, has_digests: bool) -> tuple[Path, np.ndarray]:
    """A checkpoint with all its files, and its embeddings; without digests, as earlier versions wrote it."""
    from cosent.calibration import Platt
    from cosent.model.decision import Decision
    from cosent.model.quantization import find_ranges

    model = SentenceBert(tiny, normalize_embeddings=True, device="cpu")
    model.settings.prompts = {"query": "a question: ", "document": ""}
    model.settings.default_prompt_name = "document"
    model.settings.loss = {"name": "CoSENTLoss", "scale": 20.0}
    ranges = find_ranges(model.encode(TEXTS, truncate_dim=3)).tolist()
    model.settings.decision = Decision(
        0.5, "accuracy", 0.9, "dev.tsv", 100, 3.0, Platt(3.0, -1.5), "int8", truncate_dim=3, ranges=ranges
    )
    model.save_pretrained(folder)
    if not has_digests:
        config = json.loads((folder / "cosent_config.json").read_text(encoding="utf-8"))
        (folder / "cosent_config.json").write_text(json.dumps({**config, "files": None}), encoding="utf-8")
    return folder, model.encode(TEXTS)


if __name__ == "__main__":
    main()
