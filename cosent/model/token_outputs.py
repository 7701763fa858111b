"""What a model computes for each token of a text, and everything else about the text.

Shapes: N texts, L tokens in a text, T tokens of a batch, D dimensions.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cosent.errors import UserError
from cosent.kernels.packing import token_states
from cosent.model.embedding import Encoder, batches, embed_texts, flat_batch
from cosent.model.modes import embedding_mode
from cosent.model.tokens import Tokens, tokenize

OutputValue = Literal["sentence_embedding", "token_embeddings"] | None


def token_outputs(
    encoder: Encoder,
    texts: list[str],
    output_value: OutputValue,
    batch_size: int,
    progress: tqdm,
    prompt: str | None,
    dim: int | None,
) -> list[Any]:
    """Compute the last layer's states of each text's tokens, prompt and special tokens included.

    Args:
        encoder: the encoder.
        texts: N texts.
        output_value: "token_embeddings", or None for everything.
        batch_size: batch size in texts of 128 tokens.
        progress: counts the texts.
        prompt: prefix for every text; None: the checkpoint's default prompt, if any.
        dim: D of the sentence embeddings; None: the encoder's.

    Returns:
        N float32 tensors (L, D), or N dicts of "input_ids" and "attention_mask" (L,), "token_embeddings" (L, D) and
        "sentence_embedding" (D,); all on the encoder's device.

    Raises:
        UserError: if the output value is unknown, or the batch size below 1.
    """
    if output_value not in (None, "token_embeddings"):
        raise UserError(f"output_value must be sentence_embedding, token_embeddings or None, got {output_value!r}")
    tokens = tokenize(encoder.tokenizer, encoder.prepare(texts, prompt), encoder.max_length)
    states = _states(encoder, tokens, batch_size, progress)
    if output_value == "token_embeddings":
        return states
    embeddings = embed_texts(encoder, texts, batch_size, tqdm(disable=True), prompt, dim).to(encoder.device)
    input_ids = [torch.from_numpy(ids).long().to(encoder.device) for ids in tokens.split()]
    return [
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_embeddings": of_a_text,
            "sentence_embedding": embedding,
        }
        for ids, of_a_text, embedding in zip(input_ids, states, embeddings, strict=True)
    ]


def _states(encoder: Encoder, tokens: Tokens, batch_size: int, progress: tqdm) -> list[Tensor]:
    rows = tokens.split()
    found: dict[int, Tensor] = {}
    with embedding_mode(encoder):
        for batch in batches(tokens, batch_size):
            input_ids, lengths, longest = flat_batch(rows, batch, encoder.device)
            states = token_states(encoder.backbone, input_ids, lengths, max_length=longest).float()  # (T, D)
            found |= zip(batch.tolist(), states.split(lengths.tolist()), strict=True)
            progress.update(len(batch))
    return [found[i] for i in range(len(rows))]
