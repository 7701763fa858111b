"""The flat token batch on its way through the backbone.

Shapes: N texts, T tokens of all texts one after the other, L tokens in the longest text, D dimensions.
"""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

Layers = Literal["last", "first_last"]


def token_states(backbone: PreTrainedModel, input_ids: Tensor, lengths: Tensor, *, layers: Layers = "last") -> Tensor:
    """Run the backbone over a flat token batch and give the states of its tokens, flat again.

    Args:
        backbone: any encoder that takes `input_ids` (N, L) and `attention_mask` (N, L).
        input_ids: (T,) int64, text after text.
        lengths: (N,) int64, at least 1 each, summing to T.
        layers: the "last" layer's states, or "first_last": the mean of the first and the last layer's.

    Returns:
        (T, D) states.
    """
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # (N, L)
    padded = input_ids.new_zeros(mask.shape)
    padded[mask] = input_ids
    outputs = backbone(input_ids=padded, attention_mask=mask.long(), output_hidden_states=layers == "first_last")
    if layers == "first_last":
        first, last = outputs.hidden_states[1], outputs.hidden_states[-1]  # [0] is the embedding layer
        return (first[mask] + last[mask]) / 2
    return outputs.last_hidden_state[mask]
