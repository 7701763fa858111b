"""The folder format: a complete sentence-transformers folder, plus `cosent_config.json`.

The files use sentence-transformers' older key names, which all its versions read.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import cached_file

from cosent import calibration
from cosent.calibration import Calibration
from cosent.errors import CheckpointError, UserError
from cosent.files import write_json
from cosent.model.pooling import POOLING_MODES, PoolingMode
from cosent.version import __version__

logger = logging.getLogger(__name__)


_ST_CONFIG_NAMES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
# sentence-transformers' keys, and its later names for them.
_ST_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass
class Decision:
    """When two texts match, and what that was learnt from.

    Attributes:
        threshold: a pair matches when its cosine is at or above it.
        metric: what the threshold is best at.
        value: how good it was on the pairs that it was chosen on.
        calibrated_on: the file of those pairs.
        num_pairs: how many they were.
        positive_label_min: labels from here on counted as a match; None for 0/1 labels.
        calibration: how probable a match is by the score; None where nothing was fitted.
    """

    threshold: float
    metric: str
    value: float
    calibrated_on: str
    num_pairs: int
    positive_label_min: float | None = None
    calibration: Calibration | None = None


@dataclass
class Settings:
    """What a checkpoint says about itself beside its weights; None where it says nothing.

    Attributes:
        pooling_mode: how token states become an embedding.
        max_length: tokens in a text at most.
        normalize_embeddings: whether embeddings have unit length.
        lower_case: whether texts are lower-cased before they are tokenised.
        prompts: named texts to put in front of every text.
        default_prompt_name: the one that `encode` uses when it is given none.
        subfolder: where the backbone lies within the folder.
        loss: name and settings of the loss that trained it.
        decision: the stored threshold and calibration.
        base_model: the folder or hub id of what was fine-tuned.
    """

    pooling_mode: PoolingMode | None = None
    max_length: int | None = None
    normalize_embeddings: bool | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    subfolder: str = ""
    loss: dict[str, Any] | None = None
    decision: Decision | None = None
    base_model: str | None = None

    def threshold(self, given: float | None = None) -> float:
        """The cosine from which on two texts match.

        Args:
            given: takes the place of what is stored.

        Raises:
            UserError: if there is none, given or stored, or it is not finite.
        """
        if given is not None:
            threshold = float(given)
        elif self.decision is not None:
            threshold = self.decision.threshold
        else:
            raise UserError("this model stores no threshold: give one (threshold=0.7, say), or use `cosent calibrate`")
        if not math.isfinite(threshold):
            raise UserError(f"the threshold must be a finite number, got {threshold}")
        return threshold


def read_settings(model_name_or_path: str, revision: str | None = None) -> Settings:
    """Read what a folder or hub repository says, whether ours, sentence-transformers' or plain Hugging Face.

    Args:
        model_name_or_path: folder or hub id.
        revision: of the hub repository.

    Returns:
        The settings; all None for a plain Hugging Face folder.

    Raises:
        CheckpointError: if there is no model, a file is damaged, or a module is not one that we can reproduce.
    """
    if not Path(model_name_or_path).is_dir():
        logger.info("%s is no folder here: asking the hub", model_name_or_path)
    config_at = _locate(model_name_or_path, "config.json", revision)
    modules = _read_json(model_name_or_path, "modules.json", revision) or []
    if config_at is None and not modules:
        raise CheckpointError(_no_model(model_name_or_path))
    try:
        settings = _read_modules(model_name_or_path, modules, revision)
        prompts = _read_json(model_name_or_path, "config_sentence_transformers.json", revision) or {}
        settings.prompts = prompts.get("prompts") or {}
        settings.default_prompt_name = prompts.get("default_prompt_name")
        ours = _read_json(model_name_or_path, "cosent_config.json", revision) or {}
        settings.loss = ours.get("loss")
        settings.base_model = ours.get("base_model")
        settings.decision = _read_decision(ours.get("decision"))
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"a configuration file of {model_name_or_path} is not of the known form") from error
    return settings


def _read_modules(name: str, modules: list[dict[str, Any]], revision: str | None) -> Settings:
    settings = Settings()
    for module in modules:
        kind, path = module["type"].rsplit(".", 1)[-1], module["path"]
        if kind == "Transformer":
            settings.subfolder = path
            configs = (_read_json(name, _join(path, filename), revision) for filename in _ST_CONFIG_NAMES)
            config: dict[str, Any] = next((config for config in configs if config is not None), {})
            settings.max_length = config.get("max_seq_length")
            settings.lower_case = bool(config.get("do_lower_case"))
        elif kind == "Pooling":
            config = _read_json(name, _join(path, "config.json"), revision) or {}
            settings.pooling_mode = _pooling_mode(config, name)
        elif kind == "Normalize":
            settings.normalize_embeddings = True
        else:
            raise CheckpointError(f"{name} has a {kind} module, which cosent cannot load")
    if modules:
        settings.normalize_embeddings = bool(settings.normalize_embeddings)
    return settings


def _read_decision(stored: dict[str, Any] | None) -> Decision | None:
    if not stored:
        return None
    known = {item.name for item in fields(Decision)}  # a later version may store more
    values = {name: value for name, value in stored.items() if name in known}
    return Decision(**values | {"calibration": calibration.from_json(stored.get("calibration"))})


def write_settings(folder: str | Path, settings: Settings, embedding_dim: int) -> None:
    """Write everything but the weights and the tokenizer into a checkpoint folder.

    Args:
        folder: an existing folder.
        settings: complete: pooling mode, length and normalisation are set.
        embedding_dim: D, the embedding's width.
    """
    folder = Path(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if settings.normalize_embeddings:
        modules.append(("2_Normalize", "Normalize"))
        (folder / "2_Normalize").mkdir(exist_ok=True)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write_json(folder / "1_Pooling" / "config.json", _st_pooling(settings.pooling_mode, embedding_dim))
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": settings.prompts,
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )
    write_training(folder, settings)
    (folder / "README.md").write_text(_model_card(settings, embedding_dim), encoding="utf-8")


def write_training(folder: str | Path, settings: Settings) -> None:
    """Write `cosent_config.json`: the loss, the decision, versions.

    Args:
        folder: an existing folder.
        settings: whose loss and decision are written.
    """
    write_json(
        Path(folder) / "cosent_config.json",
        {
            "base_model": settings.base_model,
            "loss": settings.loss,
            "decision": asdict(settings.decision) if settings.decision else None,
            "versions": {
                "cosent": __version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
        },
    )


def _locate(model_name_or_path: str, filename: str, revision: str | None) -> str | None:
    if not Path(model_name_or_path).is_dir() and _looks_local(model_name_or_path):
        raise CheckpointError(_no_model(model_name_or_path))
    try:
        return cached_file(
            model_name_or_path,
            filename,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{_no_model(model_name_or_path)} ({str(error).strip().splitlines()[0]})") from error


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or Path(name).is_file()


def _no_model(name: str) -> str:
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


def _read_json(name: str, filename: str, revision: str | None) -> Any:
    path = _locate(name, filename, revision)
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _pooling_mode(config: dict[str, Any], name: str) -> PoolingMode:
    if not config.get("include_prompt", True):
        raise CheckpointError(f"{name} leaves its prompt out of the pooling, which cosent cannot do")
    modes = config.get("pooling_mode") or [mode for key, mode in _ST_POOLING_KEYS.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else list(modes)
    mode = modes[0] if len(modes) == 1 else " + ".join(modes)
    ours = {pooling.sentence_transformers: name for name, pooling in reversed(POOLING_MODES.items())}
    mode = ours.get(mode, mode)  # of several names of ours, the first
    if mode not in POOLING_MODES:
        raise CheckpointError(f"{name} pools by {mode or 'nothing'}; cosent has {', '.join(POOLING_MODES)}")
    return mode


def _st_pooling(mode: PoolingMode | None, embedding_dim: int) -> dict[str, Any]:
    theirs = POOLING_MODES[mode].sentence_transformers if mode is not None else None
    if theirs is None:
        return {"word_embedding_dimension": embedding_dim, "pooling_mode": mode}
    return {
        "word_embedding_dimension": embedding_dim,
        **{key: name == theirs for key, name in _ST_POOLING_KEYS.items()},
        "include_prompt": True,
    }


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


def _join(path: str, filename: str) -> str:
    return f"{path}/{filename}" if path else filename
