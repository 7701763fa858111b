"""The embedding loop: any number of texts through an encoder, batch by batch, in memory that does not grow with them.

Shapes: N texts, D dimensions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cosent.errors import UserError
from cosent.model.tokens import Tokens, tokenize
from cosent.prefetch import prefetch

# Tokens in a text, for what is said in texts to be counted in tokens.
_TYPICAL_LENGTH = 128

# Texts tokenised at a time, at most; the first, where a GPU waits for them; embeddings fetched from it at a time.
_TOKENIZED_TEXTS = 1 << 15
_FIRST_TOKENIZED_TEXTS = 1 << 9
_FETCHED_TEXTS = 1 << 13


class Encoder(Protocol):
    """What the loop needs of an encoder; `SentenceBert` says what each member is."""

    tokenizer: Any
    max_length: int
    training: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D."""
        ...

    @property
    def token_share(self) -> float:
        """Share of a batch's tokens that texts may take."""
        ...

    def prepare(self, texts: list[str], prompt: str | None = None) -> list[str]:
        """What the tokenizer is given."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Turn dropout on or off."""
        ...

    def __call__(self, input_ids: Tensor, lengths: Tensor, max_length: int) -> Tensor:
        """(n, D) embeddings of a flat batch."""
        ...


def check_texts(sentences: Sequence[str]) -> list[str]:
    """Insist on texts.

    Args:
        sentences: anything that can be gone through.

    Returns:
        A list of them.

    Raises:
        TypeError: saying which is no text.
    """
    texts = list(sentences)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"sentences[{i}] must be a text, got {text!r} of type {type(text).__name__}")
    return texts


def embed_texts(encoder: Encoder, texts: list[str], batch_size: int, progress: tqdm, prompt: str | None) -> Tensor:
    """Tokenise and embed texts.

    Args:
        encoder: the encoder.
        texts: N texts.
        batch_size: texts of 128 tokens in a batch; it holds as many tokens of shorter or longer ones.
        progress: counts the texts.
        prompt: put in front of every text. None: the checkpoint's default prompt, where it has one.

    Returns:
        (N, D) float32 embeddings on the CPU.
    """
    on_cpu = encoder.device.type == "cpu"
    pieces = _pieces(texts, _TOKENIZED_TEXTS if on_cpu else _FIRST_TOKENIZED_TEXTS)
    tokenized = (tokenize(encoder.tokenizer, encoder.prepare(piece, prompt), encoder.max_length) for piece in pieces)
    out = torch.empty(len(texts), encoder.embedding_dim)
    start = 0
    # on a CPU, tokenising ahead would take the cores from the model
    for part in tokenized if on_cpu else prefetch(tokenized):
        out[start : start + len(part)] = embed_tokens(encoder, part, batch_size, progress)
        start += len(part)
    return out


def embed_tokens(
    encoder: Encoder,
    tokens: Tokens,
    batch_size: int,
    progress: tqdm,
    dropout_seed: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """Embed tokenised texts, the longest first.

    Args:
        encoder: the encoder.
        tokens: of N texts.
        batch_size: see `embed_texts`.
        progress: counts the texts.
        dropout_seed: leave dropout on, drawn with this seed. None: no dropout.
        share: (i, n) embeds every n-th batch alone, from the i-th on, counted from 0; the others' rows are zeros.

    Returns:
        (N, D) float32 embeddings on the CPU, in the order given.

    Raises:
        UserError: if the batch size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    out = torch.zeros(len(tokens), encoder.embedding_dim, dtype=torch.float32)
    order = np.argsort(-tokens.lengths, kind="stable")
    rows = tokens.split()
    finished: list[tuple[NDArray[np.int64], Tensor]] = []
    device = encoder.device
    first, step = share
    number = -1
    was_training = encoder.training
    encoder.train(dropout_seed is not None)
    try:
        max_tokens = int(batch_size * _TYPICAL_LENGTH * encoder.token_share)
        for number, batch in enumerate(_batches(order, tokens.lengths, max_tokens)):
            if number % step == first:
                if dropout_seed is not None:
                    torch.manual_seed(dropout_seed + number)  # the same whoever embeds the other batches
                input_ids = torch.from_numpy(np.concatenate([rows[i] for i in batch])).long()
                lengths = torch.from_numpy(tokens.lengths[batch])
                longest = int(lengths[0])
                finished.append((batch, encoder(_send(input_ids, device), _send(lengths, device), longest)))
                if sum(len(done) for done, _ in finished) >= _FETCHED_TEXTS:
                    _fetch(finished, out)
            progress.update(len(batch))
        _fetch(finished, out)
        if number % step < first:
            # a model that is sharded over ranks runs on all of them or on none: one token, for nothing
            one = torch.ones(1, dtype=torch.int64, device=device)
            encoder(one, one, 1)
    finally:
        encoder.train(was_training)
    return out


def _pieces(texts: list[str], size: int) -> Iterator[list[str]]:
    """Cut texts into pieces, each of twice as many as the one before."""
    start = 0
    while start < len(texts):
        yield texts[start : start + size]
        start, size = start + size, min(2 * size, _TOKENIZED_TEXTS)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; a GPU's copy is not waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut an order of texts into batches of so many tokens at most, but at least one text."""
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        yield order[start:end]
        start = end


def _fetch(finished: list[tuple[NDArray[np.int64], Tensor]], out: Tensor) -> None:
    """Bring embeddings to the CPU, many at a time: each time waits for the device."""
    if finished:
        rows = np.concatenate([batch for batch, _ in finished])
        out[rows] = torch.cat([embeddings for _, embeddings in finished]).float().cpu()
        finished.clear()
