"""Finds and parses the files of a model folder or hub repository, and checks the types of their values."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import cached_file

from cosent.errors import CheckpointError

logger = logging.getLogger(__name__)

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1_024  # bytes; a pointer is smaller


class Stored:
    """The values of a JSON object, by key; a wrong type or a value out of range raises a `CheckpointError`.

    Args:
        path: path of the file, for messages.
        values: the object.
    """

    def __init__(self, path: str, values: Any):
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} must hold an object, got {_shown(values)}")
        self.path = path
        self.values: dict[str, Any] = values

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def number(self, key: str, least: float = -math.inf, most: float = math.inf) -> float:
        """Read a finite number within limits."""
        value = self.values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) < 1e300 and least <= value <= most:  # false for nan
                return float(value)
        limits = "" if math.isinf(least) and math.isinf(most) else f" from {least:g} to {most:g}"
        raise self.error(key, f"a finite number{limits}")

    def whole(self, key: str, least: int = 0) -> int:
        """Read an integer that is not below a limit."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise self.error(key, f"a whole number, {least} or more")
        return value

    def text(self, key: str) -> str:
        """Read a text."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.error(key, "a text")
        return value

    def flag(self, key: str) -> bool:
        """Read a boolean."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def numbers(self, key: str, least: float = -math.inf, most: float = math.inf) -> list[float]:
        """Read a list of finite numbers within limits."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.error(key, "a list of numbers")
        items = Stored(self.path, {f"{key}[{i}]": item for i, item in enumerate(value)})
        return [items.number(name, least, most) for name in items.values]

    def table(self, key: str) -> "Stored":
        """Read an object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return Stored(f"{self.path}, {key}", value)

    def texts(self, key: str) -> dict[str, str]:
        """Read an object of texts, leaving out nulls."""
        table = self.table(key)
        return {name: table.text(name) for name in table.values if name in table}

    def error(self, key: str, wanted: str) -> CheckpointError:
        """Make the error for a value."""
        return CheckpointError(f"{self.path}: {key} must be {wanted}, got {_shown(self.values.get(key))}")


def read_object(name: str, filename: str, revision: str | None) -> Stored | None:
    """Read a JSON object of a model.

    Args:
        name: folder or hub id.
        filename: path of the file within it.
        revision: revision of the hub repository.

    Returns:
        The values; None if there is no such file.

    Raises:
        CheckpointError: if there is no model, or the file is damaged or does not hold an object.
    """
    found = read_json(name, filename, revision)
    return None if found is None else Stored(found[0], found[1])


def read_json(name: str, filename: str, revision: str | None) -> tuple[str, Any] | None:
    """Read a JSON file of a model; arguments and errors as for `read_object`.

    Returns:
        The path and the content; None if there is no such file.
    """
    path = locate(name, filename, revision)
    if path is None:
        return None
    try:
        return path, json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {brief(error)}") from error


def locate(name: str, filename: str, revision: str | None) -> str | None:
    """Find a model's file, on the hub if necessary; None if the model has no such file.

    Args:
        name: folder or hub id.
        filename: path of the file within it.
        revision: revision of the hub repository.

    Raises:
        CheckpointError: if there is no such model.
    """
    check_exists(name)
    try:
        path = cached_file(name, filename, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{no_model(name)} ({brief(error)})") from error
    if path is None and not Path(name).is_dir() and try_to_load_from_cache(name, filename, revision=revision) is None:
        # transformers takes this for a file that does not exist
        logger.warning(
            "%s: the hub cannot be reached, and %s is not in the cache: if the model has this file, its settings are "
            "missing here, and embeddings may differ. `hf download %s` fetches the whole model",
            *(name, filename, name),
        )
    return path


def check_exists(name: str) -> None:
    """Refuse a path to a folder that does not exist, which the hub would take for an odd id.

    Args:
        name: folder or hub id of a model.

    Raises:
        CheckpointError: if it is a path, and no folder.
    """
    if not Path(name).is_dir() and _looks_local(name):
        raise CheckpointError(no_model(name))


def check_pointers(folder: str) -> None:
    """Refuse a folder with files that Git LFS has not fetched.

    Args:
        folder: a model's folder, or a hub id.

    Raises:
        CheckpointError: if a file is a Git LFS pointer.
    """
    for path in (*Path(folder).glob("*"), *Path(folder).glob("*/*")):  # its modules' folders, too
        if path.is_file() and path.stat().st_size < _POINTER_SIZE and path.read_bytes().startswith(_POINTER):
            raise CheckpointError(
                f"{path} is a Git LFS pointer to a file, and not the file: run `git lfs pull` in that repository"
            )


def no_model(name: str) -> str:
    """Make the message for a model that is not found.

    Args:
        name: folder or hub id.
    """
    if not name:
        return "the name of the model is empty; give the folder of a model or a hub id"
    path = Path(name)
    if path.is_file():
        return f"{name} is a file; give the folder of a model or a hub id"
    if path.is_dir():
        models = sorted(path.parent for path in path.glob("*/config.json"))
        hint = f"; perhaps you mean {models[-1]}" if models else ""
        return f"{name} holds neither config.json nor modules.json, so it is no model folder{hint}"
    if _looks_local(name):
        return f"{name} does not exist; give the folder of a model or a hub id"
    return (
        f"{name} is no folder here, and the hub cannot be reached or has no such model; "
        "give a local folder, or set HF_ENDPOINT to a mirror that this machine reaches"
    )


def _looks_local(name: str) -> bool:
    return (
        not name
        or name.startswith((".", "/", "~"))
        or name.endswith("/")
        or name.count("/") > 1
        or Path(name).is_file()
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def brief(error: Exception) -> str:
    """Shorten an error's message to one line of bounded length.

    Args:
        error: an error of any library.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
