"""Runs a flat token batch through a backbone.

A backbone of a known architecture runs directly on the flat tokens: its linear layers see no padding, and only
attention needs to know where the texts end. Others run on padded groups of texts of similar length.

Shapes: N texts, T tokens of all texts, concatenated, L tokens in the longest text, D dimensions.
"""

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from cosent.kernels import fused
from cosent.kernels.attention import attention
from cosent.kernels.bounds import Options, TextBounds
from cosent.kernels.groups import padded_states, states_of

logger = logging.getLogger(__name__)

Layers = Literal["last", "first_last"]
Packing = Literal["auto", "on", "off"]

# Architectures of transformers whose tokens interact only in attention, and whose attention can be replaced by our
# function. Each has a parity test.
PACKABLE = frozenset(
    {
        "albert",
        "bert",
        "camembert",
        "distilbert",
        "electra",
        "ernie",
        "eurobert",
        "llama",
        "mistral",
        "modernbert",
        "qwen2",
        "qwen3",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)

_ATTENTION = "cosent_packed"


def can_pack(backbone: PreTrainedModel) -> bool:
    """Tell whether a backbone is known to run on flat tokens.

    Args:
        backbone: any backbone; those that are not from transformers never can.

    Returns:
        Whether `use_packed_attention` may be called on it.
    """
    ours = type(backbone).__module__.startswith("transformers.")
    # a decoder that was made bidirectional has changed masks, but unchanged layers
    both_ways = getattr(backbone.config, "is_causal", None) is False
    return ours and backbone.config.model_type in PACKABLE and not both_ways


def use_packed_attention(backbone: PreTrainedModel) -> None:
    """Make a backbone attend within the texts of a flat batch; afterwards it accepts only flat batches.

    Args:
        backbone: a backbone that `can_pack`, changed in place.
    """
    if torch.cuda.is_available() and not (fused.HAS_FLASH and fused.HAS_MEMORY_EFFICIENT):
        logger.warning(
            "torch %s declares its fused attention in another way than cosent knows: on a GPU, attention takes a "
            "slower kernel. Look for a newer cosent",
            torch.__version__,
        )
    backbone.set_attn_implementation(_ATTENTION)


def is_packed(backbone: PreTrainedModel) -> bool:
    """Tell whether a backbone was made to run on flat tokens.

    Args:
        backbone: any backbone.

    Returns:
        Whether `use_packed_attention` was called on it.
    """
    return backbone.config._attn_implementation == _ATTENTION


def token_states(
    backbone: PreTrainedModel,
    input_ids: Tensor,
    lengths: Tensor,
    *,
    layers: Layers = "last",
    max_length: int | None = None,
) -> Tensor:
    """Run the backbone on a flat token batch and return the states of its tokens, flat again.

    Args:
        backbone: any encoder that takes `input_ids` (N, L) and `attention_mask` (N, L), or is packed.
        input_ids: (T,) int64, text after text; fastest if neighbouring texts have similar lengths.
        lengths: (N,) int64, at least 1 each, summing to T.
        layers: the "last" layer's states, or "first_last": the mean of the first and the last layer's.
        max_length: the largest length, if known: reading it from the device waits for its work to finish.

    Returns:
        (T, D) states.
    """
    # a decoder would cache the keys of every layer for the next token
    options: dict[str, Any] = {"use_cache": False} if getattr(backbone.config, "use_cache", False) else {}
    options["output_hidden_states"] = layers == "first_last"
    if not is_packed(backbone):
        return padded_states(backbone, input_ids, lengths, options)
    offsets = F.pad(lengths.cumsum(0), (1, 0))  # (N+1,)
    starts = torch.repeat_interleave(offsets[:-1], lengths, output_size=len(input_ids))  # (T,)
    positions = _positions(backbone, input_ids, starts)
    bounds = TextBounds(lengths, offsets.int(), int(lengths.max()) if max_length is None else max_length)
    outputs = backbone(input_ids=input_ids[None], position_ids=positions[None], text_bounds=bounds, **options)
    return states_of(outputs)[0]


def sort_by_length(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort a flat batch into the order that runs fastest, the longest texts first.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.

    Returns:
        The (T,) tokens and (N,) lengths in that order, and the (N,) new index of each text.
    """
    order = lengths.argsort(descending=True, stable=True)
    starts = (lengths.cumsum(0) - lengths)[order]
    sorted_lengths = lengths[order]
    new_starts = sorted_lengths.cumsum(0) - sorted_lengths
    shift = torch.repeat_interleave(starts - new_starts, sorted_lengths, output_size=len(input_ids))  # (T,)
    tokens = torch.arange(len(input_ids), device=lengths.device) + shift
    return input_ids[tokens], sorted_lengths, order.argsort()


def position_offset(backbone: PreTrainedModel) -> int:
    """Return the position of a text's first token; RoBERTa and related models start after their padding index.

    Args:
        backbone: any backbone.
    """
    positions = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    learned = isinstance(positions, nn.Embedding) and positions.padding_idx is not None
    return positions.padding_idx + 1 if learned else 0  # type: ignore[union-attr]  # mypy loses what `learned` says


def _positions(backbone: PreTrainedModel, input_ids: Tensor, starts: Tensor) -> Tensor:
    """Compute the (T,) positions of tokens; RoBERTa and related models do not count padding tokens."""
    places = torch.arange(len(input_ids), device=input_ids.device) - starts
    offset = position_offset(backbone)
    if not offset:
        return places
    is_token = input_ids != offset - 1  # a text may hold the padding token itself
    counted = is_token.cumsum(0)
    before = (counted - is_token.long())[starts]  # counted in the texts before
    return (counted - before) * is_token + offset - 1


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    text_bounds: TextBounds | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: (1, H, T, D) queries, keys and values to (1, T, H, D)."""
    # transformers makes no mask for a custom attention, so padding would go unnoticed
    if text_bounds is None:
        raise ValueError("this backbone runs without padding, through its SentenceBert; load it with packing='off'")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H, D)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = Options(scale, dropout, bool(module.is_causal), sliding_window)
    return attention(query, key, value, text_bounds, options)[None], None


# registered on import, because a model sent to another process does not call `use_packed_attention` there
AttentionInterface.register(_ATTENTION, _packed_attention)
