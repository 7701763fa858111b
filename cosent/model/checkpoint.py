"""The folder format: a complete sentence-transformers folder, plus `cosent_config.json`."""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers

from cosent.errors import CheckpointError
from cosent.files import write_json
from cosent.model.decision import read_decision
from cosent.model.fingerprint import read_fingerprint
from cosent.model.saved_files import digests_of, read_files
from cosent.model.settings import Settings
from cosent.model.st_folder import read_folder, write_folder
from cosent.model.stored import Stored, check_pointers, locate, no_model, read_object
from cosent.version import __version__

logger = logging.getLogger(__name__)

_OURS = "cosent_config.json"


def read_settings(model_name_or_path: str, revision: str | None = None) -> Settings:
    """Read the settings of a cosent, sentence-transformers or plain Hugging Face folder or hub repository.

    Args:
        model_name_or_path: folder or hub id.
        revision: revision of the hub repository.

    Returns:
        The settings; all None for a plain Hugging Face folder.

    Raises:
        CheckpointError: if there is no model, a file is missing, damaged or a Git LFS pointer, or cosent does not
            support a value or a module.
    """
    if not Path(model_name_or_path).is_dir():
        logger.info("%s is no folder here: asking the hub", model_name_or_path)
    check_pointers(model_name_or_path)
    config_at = locate(model_name_or_path, "config.json", revision)
    settings = read_folder(model_name_or_path, revision)
    ours = read_object(model_name_or_path, _OURS, revision)
    # a plain folder that was only calibrated stores a decision and neither of these
    if settings is None and ours is not None and any(key in ours for key in ("fingerprint", "files", "loss")):
        raise CheckpointError(f"{ours.path} is of a complete checkpoint of cosent, but modules.json is missing")
    if settings is None and config_at is None:
        raise CheckpointError(no_model(model_name_or_path))
    settings = settings or Settings()
    if ours is not None:
        _read_ours(ours, settings)
    return settings


def _read_ours(stored: Stored, settings: Settings) -> None:
    settings.loss = stored.table("loss").values if "loss" in stored else None
    settings.base_model = stored.text("base_model") if "base_model" in stored else None
    settings.decision = read_decision(stored.table("decision")) if "decision" in stored else None
    settings.fingerprint = read_fingerprint(stored.table("fingerprint")) if "fingerprint" in stored else None
    settings.files = read_files(stored.table("files")) if "files" in stored else None


def write_settings(folder: str | Path, settings: Settings, embedding_dim: int) -> None:
    """Write everything but the weights and the tokenizer into a checkpoint folder.

    Args:
        folder: an existing folder with the weights and the tokenizer.
        settings: the settings; pooling mode, length and normalisation must not be None.
        embedding_dim: the width of an embedding before truncation.
    """
    write_folder(Path(folder), settings, embedding_dim)
    write_training(folder, replace(settings, files=digests_of(Path(folder))))
    (Path(folder) / "README.md").write_text(_model_card(settings, embedding_dim), encoding="utf-8")


def write_training(folder: str | Path, settings: Settings) -> None:
    """Write `cosent_config.json`: the base model, the loss, the decision, the fingerprint, the files and the versions.

    Args:
        folder: an existing folder.
        settings: the settings to take them from.
    """
    write_json(
        Path(folder) / _OURS,
        {
            "base_model": settings.base_model,
            "loss": settings.loss,
            "decision": asdict(settings.decision) if settings.decision else None,
            "fingerprint": asdict(settings.fingerprint) if settings.fingerprint else None,
            "files": settings.files,
            "versions": {
                "cosent": __version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
        },
    )


def _model_card(settings: Settings, embedding_dim: int) -> str:
    loss = f"It was fine-tuned with {settings.loss['name']}. " if settings.loss else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- cosent
---

# Sentence encoder

It maps a text of up to {settings.max_length} tokens to {embedding_dim} dimensions ({settings.pooling_mode} pooling).
{loss}`cosent_config.json` says from which cosine on two texts match, if that was learnt.

```python
from cosent import SentenceBert  # or: from sentence_transformers import SentenceTransformer

model = SentenceBert("path/to/this/folder")
embeddings = model.encode(["How do I reset my password?", "I forgot my password"])
```
"""
