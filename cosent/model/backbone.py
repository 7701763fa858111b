"""transformers' encoders: loading them with all their weights, and what cosent asks of them."""

import logging
from typing import get_args

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cosent.errors import CheckpointError, UserError
from cosent.kernels.packing import Packing, can_pack, position_offset

logger = logging.getLogger(__name__)

# What architectures call the rates of hidden and attention dropout.
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
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    dropout: float | None = None,
    needs_pooler: bool = False,
) -> PreTrainedModel:
    """Load a transformers encoder, and insist on its weights.

    Args:
        name: folder or hub id.
        subfolder: of it.
        config_name: folder or hub id of another configuration.
        revision: of the hub repository.
        trust_remote_code: whether code from the checkpoint may run.
        dtype: of the weights; None: as stored.
        attn_implementation: transformers' name of an attention implementation.
        dropout: rate of hidden and attention dropout; None: what the configuration says.
        needs_pooler: whether the dense layer over the first token has to be there, and trained.

    Returns:
        The encoder, without any head.

    Raises:
        CheckpointError: if it cannot be loaded, or weights are missing from it.
        UserError: if the dropout is out of range, or the configuration has none.
    """
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(config_name or name, subfolder="" if config_name else subfolder, **hub)
        if config.is_encoder_decoder:
            raise CheckpointError(f"{name} is an encoder-decoder; cosent trains encoders")
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
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded: {error}") from error
    missing = sorted(key for key in info["missing_keys"] if needs_pooler or not key.startswith("pooler."))
    if missing:
        raise CheckpointError(
            f"{name} lacks {len(missing)} weights of its encoder ({', '.join(missing[:3])}, ...), which would be "
            "random. Is it a checkpoint of another architecture, or, if these are the pooler's, one without a pooler?"
        )
    if needs_pooler and isinstance(getattr(backbone, "pooler", None), (nn.Linear, type(None))):
        # ALBERT's is a bare linear map, without the activation
        raise CheckpointError(f"{name} has no pooler module of BERT's kind; use another pooling_mode, cls perhaps")
    return backbone


def _set_dropout(config: PretrainedConfig, rate: float, name: str) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"dropout must be at least 0 and below 1, got {rate}")
    known = [key for key in _DROPOUT_KEYS if hasattr(config, key)]
    if not known:
        raise UserError(f"the configuration of {name} knows no dropout; leave it out")
    for key in known:
        setattr(config, key, rate)


def position_limit(backbone: PreTrainedModel) -> int:
    """How many tokens a text can have at most for the backbone's position embeddings; 2**31 - 1 without a limit."""
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return limit - position_offset(backbone) if limit else 2**31 - 1


def shall_pack(backbone: PreTrainedModel, packing: Packing, attn_implementation: str | None, name: str) -> bool:
    """Tell whether a backbone is to run without padding.

    Args:
        backbone: any.
        packing: "auto", "on" or "off"; see `SentenceBert`.
        attn_implementation: transformers' name of an attention implementation, which packing would replace.
        name: of the backbone, for messages.

    Returns:
        Whether to call `use_packed_attention` with it.

    Raises:
        UserError: if packing is "on" and cannot be.
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
    """Find out how many tokens a text may have.

    Args:
        asked: what the caller wants. None: nothing.
        stored: what the checkpoint says. None: nothing.
        tokenizer: of the backbone.
        backbone: whose position embeddings end somewhere.

    Returns:
        What is asked, else what is stored, else the tokenizer's limit, and never more than the backbone's.

    Raises:
        UserError: if what is asked leaves no room for a token, or is more than the backbone's.
    """
    limit = position_limit(backbone)
    if asked is not None and not tokenizer.num_special_tokens_to_add() < asked <= limit:
        raise UserError(f"max_length must leave room for a token and be at most {limit}, got {asked}")
    return asked or int(min(stored or tokenizer.model_max_length, limit))


def default_device() -> torch.device:
    """The accelerator, where there is one, else the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None else torch.device("cpu")
