"""The flat token batch on its way through the backbone.

A backbone that is known to allow it runs on the flat tokens as they are: its linear layers see no padding, and only
attention looks at where the texts end. Others run on padded groups of texts of similar length.

Shapes: N texts, T tokens of all texts one after the other, L tokens in the longest text, D dimensions.
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

logger = logging.getLogger(__name__)

Layers = Literal["last", "first_last"]
Packing = Literal["auto", "on", "off"]

# Architectures of transformers whose tokens meet in attention alone, and whose attention takes our function. Each has
# a parity test.
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

# Padding that a group of texts of similar length may hold, in tokens: about what another forward costs.
_GROUP_PADDING = 256


def can_pack(backbone: PreTrainedModel) -> bool:
    """Tell whether a backbone is known to run on flat tokens.

    Args:
        backbone: of transformers, or of other code, which is not known.

    Returns:
        Whether `use_packed_attention` may be called with it.
    """
    ours = type(backbone).__module__.startswith("transformers.")
    # a decoder that was made to look both ways has its masks changed, and not its layers
    both_ways = getattr(backbone.config, "is_causal", None) is False
    return ours and backbone.config.model_type in PACKABLE and not both_ways


def use_packed_attention(backbone: PreTrainedModel) -> None:
    """Make a backbone that `can_pack` attend within the texts of a flat batch; it takes nothing else from then on.

    Args:
        backbone: changed in place.
    """
    if torch.cuda.is_available() and not (fused.HAS_FLASH and fused.HAS_MEMORY_EFFICIENT):
        logger.warning(
            "torch %s declares its fused attention in another way than cosent knows: on a GPU, attention takes a "
            "slower kernel. Look for a newer cosent",
            torch.__version__,
        )
    AttentionInterface.register(_ATTENTION, _packed_attention)
    backbone.set_attn_implementation(_ATTENTION)


def is_packed(backbone: PreTrainedModel) -> bool:
    """Tell whether a backbone was made to run on flat tokens.

    Args:
        backbone: any.

    Returns:
        Whether `use_packed_attention` was called with it.
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
    """Run the backbone over a flat token batch and give the states of its tokens, flat again.

    Args:
        backbone: any encoder that takes `input_ids` (N, L) and `attention_mask` (N, L), or is packed.
        input_ids: (T,) int64, text after text; fastest where texts of similar length are neighbours.
        lengths: (N,) int64, at least 1 each, summing to T.
        layers: the "last" layer's states, or "first_last": the mean of the first and the last layer's.
        max_length: of the lengths, where it is known: asking the device for it waits for what the device is doing.

    Returns:
        (T, D) states.
    """
    # a decoder would keep every layer's keys for a next token
    options: dict[str, Any] = {"use_cache": False} if getattr(backbone.config, "use_cache", False) else {}
    options["output_hidden_states"] = layers == "first_last"
    if not is_packed(backbone):
        return _padded_states(backbone, input_ids, lengths, options)
    offsets = F.pad(lengths.cumsum(0), (1, 0))  # (N+1,)
    starts = torch.repeat_interleave(offsets[:-1], lengths, output_size=len(input_ids))  # (T,)
    positions = torch.arange(len(input_ids), device=input_ids.device) - starts + position_offset(backbone)
    bounds = TextBounds(lengths, offsets.int(), int(lengths.max()) if max_length is None else max_length)
    outputs = backbone(input_ids=input_ids[None], position_ids=positions[None], text_bounds=bounds, **options)
    return _states(outputs)[0]


def sort_by_length(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring a flat batch into the order in which it runs fastest, the longest texts first.

    Args:
        input_ids: (T,) text after text.
        lengths: (N,) summing to T.

    Returns:
        The (T,) tokens and (N,) lengths in that order, and (N,) where each text of the batch has gone.
    """
    order = lengths.argsort(descending=True, stable=True)
    starts = (lengths.cumsum(0) - lengths)[order]
    sorted_lengths = lengths[order]
    new_starts = sorted_lengths.cumsum(0) - sorted_lengths
    shift = torch.repeat_interleave(starts - new_starts, sorted_lengths, output_size=len(input_ids))  # (T,)
    tokens = torch.arange(len(input_ids), device=lengths.device) + shift
    return input_ids[tokens], sorted_lengths, order.argsort()


def position_offset(backbone: PreTrainedModel) -> int:
    """The position of a text's first token: RoBERTa and its kin count from one after their padding.

    Args:
        backbone: any.
    """
    positions = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    learned = isinstance(positions, nn.Embedding) and positions.padding_idx is not None
    return positions.padding_idx + 1 if learned else 0  # type: ignore[union-attr]  # mypy loses what `learned` says


def _padded_states(backbone: PreTrainedModel, input_ids: Tensor, lengths: Tensor, options: dict[str, Any]) -> Tensor:
    counts = lengths.tolist()
    states = []
    first = start = 0
    for size in _group_sizes(counts):
        group = counts[first : first + size]
        end = start + sum(group)
        mask = torch.arange(max(group), device=lengths.device) < lengths[first : first + size, None]  # (n, L)
        padded = input_ids.new_zeros(mask.shape).masked_scatter(mask, input_ids[start:end])
        hidden = _states(backbone(input_ids=padded, attention_mask=mask.long(), **options))
        states.append(hidden[mask])
        first, start = first + size, end
    return torch.cat(states)


def _group_sizes(lengths: list[int]) -> list[int]:
    """Cut neighbours into groups that hold little padding."""
    sizes, longest, padding = [0], 0, 0
    for length in lengths:
        # what this text, or the others beside it, would be padded with
        more = longest - length if length <= longest else (length - longest) * sizes[-1]
        if padding + more > _GROUP_PADDING and sizes[-1]:
            sizes.append(0)
            longest, padding, more = 0, 0, 0
        sizes[-1] += 1
        padding += more
        longest = max(longest, length)
    return sizes


def _states(outputs: Any) -> Tensor:
    if outputs.hidden_states is None:
        return outputs.last_hidden_state
    return (outputs.hidden_states[1] + outputs.hidden_states[-1]) / 2  # [0] is the embedding layer


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
    """What transformers calls for attention, with (1, H, T, D) of query, key and value; gives (1, T, H, D)."""
    # transformers makes no mask for an attention that it does not know: padding would go unnoticed
    if text_bounds is None:
        raise ValueError("this backbone runs without padding, through its SentenceBert; load it with packing='off'")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, H, D)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = Options(scale, dropout, bool(module.is_causal), sliding_window)
    return attention(query, key, value, text_bounds, options)[None], None
