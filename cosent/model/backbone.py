"""Loads transformers' encoders with all their weights, and reads the limits that cosent needs."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cosent.errors import CheckpointError, UserError
from cosent.kernels.groups import num_token_embeddings
from cosent.kernels.packing import Packing, can_pack, position_offset
from cosent.model.stored import brief, locate

logger = logging.getLogger(__name__)

_MOST_LAYERS = 1_000
_WEIGHTS = "model.safetensors"

_HALF = (torch.float16, torch.bfloat16)

# The names of hidden and attention dropout rates in the configurations of different architectures.
_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


def load_backbone(
    name: str,
    subfolder: str = "",
    *,
    config_name: str | None = None,
    config_options: Mapping[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    dropout: float | None = None,
    needs_pooler: bool = False,
) -> PreTrainedModel:
    """Load a transformers encoder and check that no weights are missing.

    Args:
        name: folder or hub id of the model.
        subfolder: folder within it that holds the encoder.
        config_name: folder or hub id of another configuration.
        config_options: values that replace those of the stored configuration.
        revision: revision of the hub repository.
        trust_remote_code: whether code from the checkpoint may run.
        dtype: type of the weights; None: as stored.
        attn_implementation: name of one of transformers' attention implementations.
        dropout: rate of hidden and attention dropout; None: the configuration's.
        needs_pooler: whether a trained pooler, the dense layer over the first token, is required.

    Returns:
        The encoder, without any head.

    Raises:
        CheckpointError: if the encoder cannot be loaded or lacks weights.
        UserError: if the dropout is out of range, or the configuration has no dropout rate.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        _check_no_adapter(name, subfolder, revision)
        place = "" if config_name else subfolder
        config = AutoConfig.from_pretrained(config_name or name, subfolder=place, **(config_options or {}), **hub)
        if getattr(config, "num_hidden_layers", 0) > _MOST_LAYERS:  # which would be built one by one, for ever
            raise CheckpointError(f"{name}: num_hidden_layers must be at most {_MOST_LAYERS:,}")
        if config.is_encoder_decoder:
            raise CheckpointError(f"{name} is an encoder-decoder; cosent trains encoders")
        config.chunk_size_feed_forward = 0  # pieces save memory, and texts must be a multiple of them
        if dropout is not None:
            _set_dropout(config, dropout, name)
        backbone, info = AutoModel.from_pretrained(
            name,
            subfolder=subfolder,
            config=config,
            dtype=dtype or "auto",
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **hub,
        )
    except UserError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"the weights of {name} are damaged, perhaps cut short: {error}") from error
    except Exception as error:  # files of other origin can make transformers raise anything
        raise CheckpointError(f"{name} cannot be loaded: {brief(error)}") from error
    if dtype is None and backbone.dtype in _HALF:
        _warn_of_rounding(name, subfolder, revision, backbone.dtype)
    missing = sorted(key for key in info["missing_keys"] if needs_pooler or not key.startswith("pooler."))
    if missing:
        raise CheckpointError(
            f"{name} lacks {len(missing)} weights of its encoder ({', '.join(missing[:3])}, ...), which would be "
            "random. Is it a checkpoint of another architecture, or, if these are the pooler's, one without a pooler?"
        )
    left_over = _of_the_same_kind(info["unexpected_keys"], backbone.state_dict())
    if left_over:
        raise CheckpointError(
            f"{name} has {len(left_over)} weights of layers that its configuration lacks ({left_over[0]}, ...). "
            "Is num_hidden_layers in config.json correct?"
        )
    if needs_pooler and isinstance(getattr(backbone, "pooler", None), (nn.Linear, type(None))):
        # ALBERT's pooler is a plain linear layer, without the activation
        raise CheckpointError(f"{name} has no pooler module of BERT's kind; use another pooling_mode, cls perhaps")
    return backbone


def _warn_of_rounding(name: str, subfolder: str, revision: str | None, dtype: torch.dtype) -> None:
    """Say that weights are stored in a higher precision than the configuration asks for."""
    path = locate(name, f"{subfolder}/{_WEIGHTS}" if subfolder else _WEIGHTS, revision)
    if path is None:
        return
    with safe_open(path, "pt") as weights:
        kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}
    if "F32" in kinds:
        kind = str(dtype).removeprefix("torch.")
        logger.warning(
            "%s stores float32 weights, which are rounded to %s because its config.json says so; dtype='float32' "
            "keeps them",
            *(name, kind),
        )


def _check_no_adapter(name: str, subfolder: str, revision: str | None) -> None:
    """Refuse a folder with an adapter, for which transformers would freeze or leave out the weights."""
    if locate(name, f"{subfolder}/adapter_config.json" if subfolder else "adapter_config.json", revision):
        raise CheckpointError(
            f"{name} has an adapter_config.json, but cosent loads only complete models. Merge the adapter into its "
            "base model (peft's merge_and_unload), or remove that file if the weights beside it are complete"
        )


def _of_the_same_kind(unexpected: Iterable[str], known: Iterable[str]) -> list[str]:
    """Find weights of additional layers: those whose names differ from existing ones only by numbers."""

    def kind(key: str) -> str:
        return re.sub(r"\d+", "#", key)

    kinds = {kind(key) for key in known if kind(key) != key}
    return sorted(key for key in unexpected if kind(key) in kinds or kind(key).partition(".")[2] in kinds)


def check_sizes(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stored_dim: int | None, name: str
) -> None:
    """Check that a backbone has an embedding for every token, and the width that its pooling expects.

    Args:
        backbone: any.
        tokenizer: the tokenizer that belongs to it.
        stored_dim: the width of token states that the pooling expects. None: any.
        name: the model's name, for messages.

    Raises:
        CheckpointError: if it does not.
    """
    rows = num_token_embeddings(backbone)
    highest = max(tokenizer.get_vocab().values())
    if rows is not None and highest >= rows:
        raise CheckpointError(
            f"{name}: the tokenizer has ids up to {highest}, but the model has only {rows} token embeddings. "
            "The tokenizer belongs to another model, or has tokens that were not added to the model"
        )
    if stored_dim not in (None, backbone.config.hidden_size):
        raise CheckpointError(
            f"{name}: the pooling expects {stored_dim} dimensions, but the model has {backbone.config.hidden_size}"
        )


def train_in_float32(model: nn.Module) -> bool:
    """Convert half-precision weights to float32, in place, because their rounding would swallow an optimizer's steps.

    If most weights are frozen, as with adapters, only the trainable ones are converted.

    Args:
        model: the model to train.

    Returns:
        Whether trainable weights were in half precision.
    """
    weights = list(model.parameters())
    trainable = [weight for weight in weights if weight.requires_grad]
    if not any(weight.dtype in _HALF for weight in trainable):
        return False
    mostly = 2 * sum(weight.numel() for weight in trainable) >= sum(weight.numel() for weight in weights)
    for weight in weights if mostly else trainable:
        if weight.dtype in _HALF:
            weight.data = weight.data.float()
    return True


def _set_dropout(config: PretrainedConfig, rate: float, name: str) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"dropout must be at least 0 and below 1, got {rate}")
    known = [key for key in _DROPOUT_KEYS if hasattr(config, key)]
    if not known:
        raise UserError(f"the configuration of {name} knows no dropout; leave it out")
    for key in known:
        setattr(config, key, rate)


def position_limit(backbone: PreTrainedModel) -> int:
    """Return the most tokens that the backbone's position embeddings allow in a text; 2**31 - 1 if unlimited."""
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return limit - position_offset(backbone) if limit else 2**31 - 1


def shall_pack(backbone: PreTrainedModel, packing: Packing, attn_implementation: str | None, name: str) -> bool:
    """Tell whether a backbone should run without padding.

    Args:
        backbone: the backbone.
        packing: "auto", "on" or "off", as in `SentenceBert`.
        attn_implementation: the attention implementation that the caller chose, which packing would replace.
        name: the backbone's name, for messages.

    Returns:
        Whether to call `use_packed_attention` on it.

    Raises:
        UserError: if packing is "on" but impossible.
    """
    if packing not in get_args(Packing):
        raise UserError(f"packing must be one of {', '.join(get_args(Packing))}, got {packing!r}")
    if packing == "off" or (packing == "auto" and attn_implementation is not None):
        return False
    if packing == "on" and attn_implementation is not None:
        raise UserError(f"packing brings its own attention: leave out attn_implementation={attn_implementation!r}")
    if can_pack(backbone):
        return True
    what = f"{name} ({backbone.config.model_type}) is not known to run without padding"
    if packing == "on":
        raise UserError(f"{what}; use packing='auto'")
    logger.info("%s: texts of similar length are padded to the same length instead", what)
    return False


def text_limit(
    asked: int | None, stored: int | None, tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedModel
) -> int:
    """Choose the maximum number of tokens in a text.

    Args:
        asked: the caller's choice, if any.
        stored: the checkpoint's value, if any.
        tokenizer: the backbone's tokenizer.
        backbone: the backbone, whose position embeddings may set a limit.

    Returns:
        `asked`, else `stored`, else the tokenizer's limit; at most the backbone's limit.

    Raises:
        UserError: if `asked` leaves no room for a token or exceeds the backbone's limit.
    """
    limit = position_limit(backbone)
    if asked is not None and not tokenizer.num_special_tokens_to_add() < asked <= limit:
        raise UserError(f"max_length must leave room for a token and be at most {limit}, got {asked}")
    if stored is not None and stored <= tokenizer.num_special_tokens_to_add():
        raise CheckpointError(f"the checkpoint's max_seq_length of {stored} leaves no room for a token of a text")
    return asked or int(min(stored or tokenizer.model_max_length, limit))


def default_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
