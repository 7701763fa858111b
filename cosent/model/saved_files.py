"""Checks that the files of a model's folder are those that were saved together.

The fingerprint notices whatever changes the embeddings of a few texts; a digest of each file notices the rest, such as
damaged embeddings of tokens that these texts lack.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from cosent.errors import CheckpointError
from cosent.files import checksum
from cosent.model.stored import Stored, locate

# The digests of files by their path in the folder: its "checksum" and, for text, its "content".
Files = Mapping[str, Mapping[str, str]]

# What embeddings depend on: the weights, the settings, and what tokenizers save.
_PATTERNS = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "modules.json", "[0-9]_*/config.json"),
    *("sentence_*_config.json", "config_sentence_transformers.json", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab*", "merges.txt", "*.model", "*.vocab"),
)


def digests_of(folder: Path) -> Files:
    """Compute the digests of a folder's files that embeddings depend on.

    Args:
        folder: a complete folder.
    """
    paths = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def read_files(stored: Stored) -> Files:
    """Read the digests of a folder's files.

    Args:
        stored: the stored values.

    Raises:
        CheckpointError: if a value is of another type, or a path leads out of the folder.
    """
    for name in stored.values:
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or not name:
            raise CheckpointError(f"{stored.path} must name files of its own folder, got {name[:80]!r}")
    return {name: stored.texts(name) for name in stored.values}


def check_files(name: str, files: Files, revision: str | None = None) -> None:
    """Refuse a model with a file that has changed since it was saved; another layout of JSON is no change.

    Args:
        name: folder or hub id of the model.
        files: the digests of its files.
        revision: revision of the hub repository.

    Raises:
        CheckpointError: if a file is missing or has changed.
    """
    for filename, stored in files.items():
        found = locate(name, filename, revision)
        if found is not None and _is_same(Path(found), stored):
            continue
        what = "is missing" if found is None else "is damaged, or not the file that was saved with cosent_config.json"
        raise CheckpointError(
            f"{name}: {filename} {what}; copy the whole folder again. If it was changed on purpose, remove "
            '"files" from cosent_config.json: only the "fingerprint" is compared then'
        )


def _is_same(path: Path, stored: Mapping[str, str]) -> bool:
    if checksum(path) == stored.get("checksum"):
        return True
    return "content" in stored and _content(path) == stored["content"]


def _digest(path: Path) -> dict[str, str]:
    content = _content(path)
    return {"checksum": checksum(path)} | ({} if content is None else {"content": content})


def _content(path: Path) -> str | None:
    """Return a digest of a text file that does not depend on its layout; None for other files."""
    if path.suffix == ".txt":
        return _short(path.read_bytes().replace(b"\r\n", b"\n"))
    if path.suffix != ".json":
        return None
    try:
        return _short(json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True).encode())
    except (ValueError, RecursionError):  # it is damaged
        return None


def _short(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
