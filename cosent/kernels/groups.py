"""Padded groups of texts of similar length, for backbones that cannot run on flat tokens.

Shapes: N texts, n texts in a group, T tokens of all texts, concatenated, L tokens in a group's longest, D dimensions.
"""

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# The most padding in a group, in tokens: about the cost of another forward pass.
_GROUP_PADDING = 256

# Padding may change a token's state by this share of its largest number; half precision rounds more coarsely.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 0.05

_MARK = "pads_with_effect"  # an attribute of the backbone, so that copies in other processes have it, too


def padded_states(backbone: PreTrainedModel, input_ids: Tensor, lengths: Tensor, options: dict[str, Any]) -> Tensor:
    """Run a backbone on padded groups of neighbouring texts.

    Args:
        backbone: any encoder that takes `input_ids` (n, L) and optionally `attention_mask`.
        input_ids: (T,) int64, text after text; neighbouring texts should have similar lengths.
        lengths: (N,) int64, at least 1 each, summing to T.
        options: further arguments of its forward method; unknown ones are left out.

    Returns:
        (T, D) states.
    """
    takes = _parameters(type(backbone).forward)
    options = {name: value for name, value in options.items() if takes is None or name in takes}
    counts = lengths.tolist()
    states = []
    first = start = 0
    for size in _group_sizes(counts, 0 if getattr(backbone, _MARK, False) else _GROUP_PADDING):
        group = counts[first : first + size]
        end = start + sum(group)
        mask = torch.arange(max(group), device=lengths.device) < lengths[first : first + size, None]  # (n, L)
        padded = input_ids.new_full(mask.shape, _pad_id(backbone)).masked_scatter(mask, input_ids[start:end])
        masks = {"attention_mask": mask.long()} if takes is None or "attention_mask" in takes else {}
        states.append(states_of(backbone(input_ids=padded, **masks, **options))[mask])
        first, start = first + size, end
    return torch.cat(states)


@torch.no_grad()
def check_padding(backbone: PreTrainedModel) -> None:
    """Test whether padding changes a backbone's states; if so, it runs without any padding from now on.

    Architectures that ignore the attention mask, such as FNet, embed a text differently beside a longer one.

    Args:
        backbone: in eval mode, on its device.
    """
    device = backbone.device
    pad_id, rows = _pad_id(backbone), num_token_embeddings(backbone) or 64
    ids = [token for token in range(min(rows, 64)) if token != pad_id] * 12
    short, long = (torch.tensor(ids[:number], device=device) for number in (5, 12))
    lengths = torch.tensor([5, 12], device=device)
    try:
        alone = padded_states(backbone, short, lengths[:1], {})
        beside = padded_states(backbone, torch.cat([short, long]), lengths, {})[:5]
        tolerance = _TOLERANCE.get(alone.dtype, _HALF_TOLERANCE)
        matters = bool((alone - beside).abs().max() > tolerance * alone.abs().max())
    except (RuntimeError, ValueError, IndexError):  # an architecture that does not take such short texts
        matters = True
    if matters:
        setattr(backbone, _MARK, True)
        logger.info("padding changes what this architecture makes of a text: only texts of equal length are batched")


def num_token_embeddings(backbone: PreTrainedModel) -> int | None:
    """Return the number of token embeddings; None for a backbone without a table of them, such as CANINE.

    Args:
        backbone: any backbone.
    """
    try:
        return getattr(backbone.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None


def states_of(outputs: Any) -> Tensor:
    """Return the states of a backbone's outputs: the last layer's, or the mean of the first and the last layer's.

    Args:
        outputs: a backbone's outputs; they must hold all layers' states if both layers are needed.

    Returns:
        (n, L, D) states.
    """
    if isinstance(outputs, tuple):  # from code outside transformers
        return outputs[0]
    if getattr(outputs, "hidden_states", None) is None:
        return outputs.last_hidden_state
    return (outputs.hidden_states[1] + outputs.hidden_states[-1]) / 2  # [0] is the embedding layer


def _pad_id(backbone: PreTrainedModel) -> int:
    pad_id = getattr(backbone.config, "pad_token_id", None)
    return pad_id if isinstance(pad_id, int) and pad_id >= 0 else 0


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str] | None:
    """Return the names of the arguments that a backbone's forward takes; None: any."""
    takes = inspect.signature(forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return None
    return frozenset(takes)


def _group_sizes(lengths: list[int], most_padding: int) -> list[int]:
    """Cut a sequence of texts into groups with little padding."""
    sizes, longest, padding = [0], 0, 0
    for length in lengths:
        # the padding that this text would need, or cause in the others
        more = longest - length if length <= longest else (length - longest) * sizes[-1]
        if padding + more > most_padding and sizes[-1]:
            sizes.append(0)
            longest, padding, more = 0, 0, 0
        sizes[-1] += 1
        padding += more
        longest = max(longest, length)
    return sizes
