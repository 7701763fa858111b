"""Reads and writes sentence-transformers' folder format.

Files are written with its older key names, which all its versions read. Each key that changes an embedding is either
followed, as sentence-transformers does, or refused, but never ignored.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import torch
import transformers

from cosent.errors import CheckpointError
from cosent.files import write_json
from cosent.model.pooling import POOLING_MODES, PoolingMode
from cosent.model.settings import Settings
from cosent.model.stored import Stored, read_json, read_object

_MODULES = ("Transformer", "Pooling", "Normalize")  # in the only order supported

_TRANSFORMER_FILES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_MODEL_FILE = "config_sentence_transformers.json"

# Options of a Transformer module for which only one value is supported.
_ONLY: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "module_input_name": "sentence_embedding",
}
_IGNORED = frozenset({"unpad_inputs"})  # only changes the speed
# Options passed to transformers' from_pretrained, by their older and their newer name.
_TOKENIZER_OPTIONS = ("tokenizer_args", "processor_kwargs")
_CONFIG_OPTIONS = ("config_args", "config_kwargs")
_MODEL_OPTIONS = ("model_args", "model_kwargs")
# Options that only the caller may set: where files come from, and whether their code may run.
_CALLERS = frozenset({"cache_dir", "code_revision", "force_download", "local_files_only", "proxies", "revision"})
_CALLERS |= {"subfolder", "token", "trust_remote_code", "use_auth_token"}

# Keys of pooling modes, and the names that later versions use.
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_POOLING_DIMENSIONS = ("word_embedding_dimension", "embedding_dimension")


def read_folder(name: str, revision: str | None = None) -> Settings | None:
    """Read the settings from `modules.json` and the files that it names.

    Args:
        name: folder or hub id.
        revision: revision of the hub repository.

    Returns:
        The settings; None if there is no `modules.json`.

    Raises:
        CheckpointError: if a file is missing or damaged, or uses a feature that cosent does not support.
    """
    found = read_json(name, "modules.json", revision)
    if found is None:
        return None
    path, modules = found
    if not isinstance(modules, list) or not modules:
        raise CheckpointError(f"{path} must hold a list of modules")
    settings = Settings(normalize_embeddings=False)
    listed = [Stored(f"{path}, module {number}", module) for number, module in enumerate(modules)]
    kinds = [_kind(module) for module in listed]
    if kinds not in (list(_MODULES), list(_MODULES[:2]), list(_MODULES[:1])):
        raise CheckpointError(f"{path} chains {', '.join(kinds)}; cosent does {', '.join(_MODULES)}, in this order")
    for module, kind in zip(listed, kinds, strict=True):
        place = _place(module)
        if kind == "Transformer":
            settings.subfolder = place
            _read_transformer(_first_object(name, place, _TRANSFORMER_FILES, revision), settings)
        elif kind == "Pooling":
            _read_pooling(_first_object(name, place, ["config.json"], revision), settings, path)
        else:
            _check_normalize(_first_object(name, place, ["config.json"], revision))
            settings.normalize_embeddings = True
    _read_model(read_object(name, _MODEL_FILE, revision), settings)
    return settings


def write_folder(folder: Path, settings: Settings, embedding_dim: int) -> None:
    """Write the files of a sentence-transformers folder except the weights and the tokenizer.

    Args:
        folder: an existing folder.
        settings: the settings; pooling mode, length and normalisation must not be None.
        embedding_dim: the width of an embedding before truncation.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if settings.normalize_embeddings:
        modules.append(("2_Normalize", "Normalize"))
    for path, _ in modules:
        (folder / path).mkdir(exist_ok=True)
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write_json(folder / "1_Pooling" / "config.json", _pooling_config(settings.pooling_mode, embedding_dim))
    write_json(
        folder / _TRANSFORMER_FILES[0],
        {"max_seq_length": settings.max_length, "do_lower_case": settings.lower_case},
    )
    truncated = {} if settings.truncate_dim is None else {"truncate_dim": settings.truncate_dim}
    write_json(
        folder / _MODEL_FILE,
        {
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": settings.prompts,
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": settings.similarity_fn_name or "cosine",
            **truncated,
        },
    )


def _kind(module: Stored) -> str:
    """Return the kind of a module if cosent can reproduce it; classes of other packages may do anything."""
    full = module.text("type")
    package, _, kind = full.rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
        raise CheckpointError(f"{module.path} is a {full}, which cosent cannot load")
    if module.values.get("kwargs"):
        raise module.error("kwargs", "left out: cosent gives modules no options of a call")
    return kind


def _place(module: Stored) -> str:
    place = module.text("path")
    parts = PurePosixPath(place.replace("\\", "/")).parts
    if ".." in parts or place.startswith(("/", "\\")) or ":" in place:
        raise module.error("path", "a folder below the model's")
    return "/".join(parts)


def _first_object(name: str, place: str, filenames: list[str], revision: str | None) -> Stored | None:
    paths = (f"{place}/{filename}" if place else filename for filename in filenames)
    return next((found for path in paths if (found := read_object(name, path, revision)) is not None), None)


def _read_transformer(config: Stored | None, settings: Settings) -> None:
    for key in config.values if config else ():
        assert config is not None  # as there are keys
        if key == "max_seq_length" and key in config:
            settings.max_length = config.whole(key, least=1)
        elif key == "do_lower_case" and key in config:
            settings.lower_case = config.flag(key)
        elif key in _TOKENIZER_OPTIONS and key in config:
            settings.tokenizer_options |= _options(config, key)
        elif key in _CONFIG_OPTIONS and key in config:
            settings.config_options |= _options(config, key)
        elif key in _MODEL_OPTIONS and key in config:
            settings.dtype = _dtype(config, key) or settings.dtype
        elif key == "modality_config" and key in config:
            text = config.table(key).values.get("text")
            if text != {"method": "forward", "method_output_name": "last_hidden_state"}:
                raise config.error(key, "what encodes texts by their last hidden states")
        else:
            _check_only(config, key)


def _options(config: Stored, key: str) -> dict[str, Any]:
    """Return the options for transformers, without those that only the caller may set."""
    options = config.table(key).values
    return {name: value for name, value in options.items() if name not in _CALLERS}


def _dtype(config: Stored, key: str) -> str | None:
    """Return the type of the weights, the only supported model option that affects more than speed."""
    options = Stored(f"{config.path}, {key}", _options(config, key))
    for name in options.values:
        if name not in ("dtype", "torch_dtype", "attn_implementation", "device_map", "low_cpu_mem_usage"):
            _check_only(options, name)
    return next((options.text(name) for name in ("dtype", "torch_dtype") if name in options), None)


def _check_only(config: Stored, key: str) -> None:
    """Refuse an option whose value is not supported."""
    value = config.values[key]
    if key in _ONLY and value not in (None, _ONLY[key]):
        raise config.error(key, repr(_ONLY[key]))
    if key not in _ONLY and key not in _IGNORED and value not in (None, False, "", [], {}):
        raise CheckpointError(f"{config.path}: cosent does not know {key}, so it would give other embeddings")


def _read_pooling(config: Stored | None, settings: Settings, path: str) -> None:
    if config is None:
        raise CheckpointError(f"{path} names a Pooling module, whose config.json is missing")
    for key in config.values:
        if key in _POOLING_KEYS or key == "include_prompt":
            config.flag(key)
        elif key in _POOLING_DIMENSIONS and key in config:
            settings.backbone_dim = config.whole(key, least=1)
        elif key != "pooling_mode":
            _check_only(config, key)
    if not config.values.get("include_prompt", True):
        raise CheckpointError(f"{config.path} leaves the prompt out of the pooling, which cosent cannot do")
    settings.pooling_mode = _pooling_mode(config)


def _pooling_mode(config: Stored) -> PoolingMode:
    modes = config.values.get("pooling_mode") or [mode for key, mode in _POOLING_KEYS.items() if config.values.get(key)]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not all(isinstance(mode, str) for mode in modes):
        raise config.error("pooling_mode", "a text, or a list of texts")
    mode = modes[0] if len(modes) == 1 else " + ".join(modes)
    ours = {pooling.sentence_transformers: name for name, pooling in reversed(POOLING_MODES.items())}
    mode = ours.get(mode, mode)  # the first of our names, if there are several
    if mode not in POOLING_MODES:
        raise CheckpointError(f"{config.path} pools by {mode or 'nothing'}; cosent has {', '.join(POOLING_MODES)}")
    return mode


def _pooling_config(mode: PoolingMode | None, embedding_dim: int) -> dict[str, Any]:
    theirs = POOLING_MODES[mode].sentence_transformers if mode is not None else None
    if theirs is None:
        return {_POOLING_DIMENSIONS[0]: embedding_dim, "pooling_mode": mode}
    keys = {key: name == theirs for key, name in _POOLING_KEYS.items()}
    return {_POOLING_DIMENSIONS[0]: embedding_dim, **keys, "include_prompt": True}


def _check_normalize(config: Stored | None) -> None:
    for key in config.values if config else ():
        assert config is not None  # as there are keys
        if key == "module_output_name" and config.values[key] in (None, _ONLY["module_input_name"]):
            continue
        _check_only(config, key)


def _read_model(config: Stored | None, settings: Settings) -> None:
    """Read the settings of the whole model; keys that sentence-transformers ignores are ignored, too."""
    if config is None:
        return
    if config.values.get("model_type") not in (None, "SentenceTransformer"):
        raise config.error("model_type", "SentenceTransformer")
    if "prompts" in config:
        settings.prompts = config.texts("prompts")
    if "default_prompt_name" in config:
        settings.default_prompt_name = config.text("default_prompt_name")
        if settings.default_prompt_name not in settings.prompts:
            raise config.error("default_prompt_name", f"one of the prompts ({', '.join(settings.prompts) or 'none'})")
    if "truncate_dim" in config:
        settings.truncate_dim = config.whole("truncate_dim", least=1)
    if "similarity_fn_name" in config:
        settings.similarity_fn_name = config.text("similarity_fn_name")
