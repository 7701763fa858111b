import pytest
import torch
from torch.testing import assert_close

from cosent.packing import token_states


@pytest.mark.parametrize("layers", ["last", "first_last"])
def test_states_are_those_of_each_text_on_its_own(model, layers):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 64, 5, 2])
    input_ids = torch.randint(5, 500, (int(lengths.sum()),), generator=generator)
    together = token_states(model.backbone, input_ids, lengths, layers=layers)
    for text, states in zip(input_ids.split(lengths.tolist()), together.split(lengths.tolist()), strict=True):
        hidden = model.backbone(input_ids=text[None], output_hidden_states=True).hidden_states
        alone = hidden[-1][0] if layers == "last" else (hidden[1][0] + hidden[-1][0]) / 2
        assert_close(states, alone, rtol=1e-5, atol=1e-5)
