"""Loads the backbone and the tokenizer of a model, and checks that they fit together."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cosent.errors import UserError, check_whole
from cosent.kernels.dropout import use_fast_dropout
from cosent.kernels.packing import Packing, use_packed_attention
from cosent.model.backbone import check_sizes, default_device, load_backbone, shall_pack
from cosent.model.pooling import POOLING_MODES, check_pooling_mode
from cosent.model.saved_files import check_files
from cosent.model.settings import Settings
from cosent.model.stored import check_exists
from cosent.model.tokens import end_with_eos, load_tokenizer, lower_case


def load_parts(
    name: str,
    settings: Settings,
    pooling_mode: str,
    *,
    revision: str | None,
    trust_remote_code: bool,
    dtype: str | torch.dtype | None,
    config_name: str | None,
    tokenizer_name: str | None,
    attn_implementation: str | None,
    dropout: float | None,
    packing: Packing,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a backbone and its tokenizer; `SentenceBert` documents the options.

    Args:
        name: hub id or folder of the model.
        settings: the model's stored settings.
        pooling_mode: a key of `POOLING_MODES`.
        revision: revision of the hub repository.
        trust_remote_code: whether code from the checkpoint may run.
        dtype: type of the weights.
        config_name: hub id or folder of another configuration.
        tokenizer_name: hub id or folder of another tokenizer.
        attn_implementation: name of one of transformers' attention implementations.
        dropout: dropout rate in training.
        packing: whether to run without padding.

    Raises:
        CheckpointError: if one of them cannot be loaded, has changed since it was saved, or they do not fit together.
        UserError: if an option is unknown or out of range.
    """
    if settings.files is not None:
        check_files(name, settings.files, revision)
    for other in (config_name, tokenizer_name):
        if other is not None:
            check_exists(other)
    pooling = POOLING_MODES[pooling_mode]
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    backbone = load_backbone(
        name,
        settings.subfolder,
        config_name=config_name,
        config_options=settings.config_options,
        dtype=dtype or settings.dtype,
        attn_implementation=attn_implementation,
        dropout=dropout,
        needs_pooler=pooling.uses_pooler,
        **hub,
    )
    use_fast_dropout(backbone)
    if shall_pack(backbone, packing, attn_implementation, name):
        use_packed_attention(backbone)
    if not pooling.uses_pooler and getattr(backbone, "pooler", None) is not None:
        # it stays in the checkpoint, where loaders expect it, but gets neither gradients nor weight decay
        backbone.pooler.requires_grad_(False)
    # a separate tokenizer has its own root folder and revision
    source, place = (tokenizer_name, "") if tokenizer_name else (name, settings.subfolder)
    if tokenizer_name:
        hub["revision"] = None
    tokenizer = load_tokenizer(source, place, **({} if tokenizer_name else settings.tokenizer_options), **hub)
    if settings.lower_case:
        lower_case(tokenizer)
    check_sizes(backbone, tokenizer, settings.backbone_dim, name)
    if pooling.reduction == "last":
        end_with_eos(tokenizer, source, place, hub["revision"])
    return backbone, tokenizer


def check_options(*, pooling_mode: Any = None, max_length: Any = None, normalize_embeddings: Any = None) -> None:
    """Refuse options of another type before anything is loaded; None stands for the checkpoint's value.

    Args:
        pooling_mode: how token states become an embedding.
        max_length: maximum number of tokens in a text.
        normalize_embeddings: whether embeddings have unit length.

    Raises:
        UserError: if one is of another type or out of range.
    """
    if pooling_mode is not None:
        check_pooling_mode(pooling_mode)
    if max_length is not None:
        check_whole("max_length", max_length)
    if normalize_embeddings not in (None, True, False):
        raise UserError(f"normalize_embeddings must be True, False or None, got {normalize_embeddings!r}")


def move(model: nn.Module, device: str | torch.device | None) -> None:
    """Move a model to a device.

    Args:
        model: the model.
        device: the device; None: an accelerator if there is one.

    Raises:
        UserError: if the device cannot be used.
    """
    try:
        model.to(device if device is not None else default_device())
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"device {device} cannot be used: {error}") from error
