"""The embedding loop: embeds any number of texts, batch by batch, in bounded device memory.

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
from cosent.model.modes import embedding_mode
from cosent.model.tokens import Tokens, tokenize
from cosent.prefetch import prefetch

# Tokens in a typical text; converts batch sizes in texts to batch sizes in tokens.
_TYPICAL_LENGTH = 128

# The most texts tokenised at a time, the number in the first chunk for a GPU, and the number of embeddings fetched at
# a time.
_TOKENIZED_TEXTS = 1 << 15
_FIRST_TOKENIZED_TEXTS = 1 << 9
_FETCHED_TEXTS = 1 << 13


class NotFiniteError(UserError):
    """An embedding is not finite.

    Attributes:
        place: index of its text, from 0.

    Args:
        place: index of the text, from 0.
        text: its text, if known.
    """

    def __init__(self, place: int, text: str | None = None):
        of = f"text {place}" if text is None else f"text {place}, {text[:80]!r},"
        super().__init__(
            f"the embedding of {of} is not finite: a weight is not, or half precision overflows (dtype='float32' does "
            "not). In training, lower the learning rate"
        )
        self.place, self.text = place, text

    def __reduce__(self) -> tuple[Any, ...]:
        return NotFiniteError, (self.place, self.text)


class Encoder(Protocol):
    """The members of an encoder that the loop uses; `SentenceBert` documents them."""

    tokenizer: Any
    max_length: int
    training: bool

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        ...

    @property
    def token_share(self) -> float:
        """The share of a batch's tokens that texts may take."""
        ...

    def prepare(self, texts: list[str], prompt: str | None = None) -> list[str]:
        """Prepare texts for the tokenizer."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Turn dropout on or off."""
        ...

    def __call__(self, input_ids: Tensor, lengths: Tensor, max_length: int) -> Tensor:
        """Return the (n, D) embeddings of a flat batch."""
        ...


def check_texts(sentences: Sequence[str]) -> list[str]:
    """Check that all items are texts.

    Args:
        sentences: the items.

    Returns:
        The texts as a list.

    Raises:
        TypeError: if an item is not a text; the message names it.
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
        batch_size: batch size in texts of 128 tokens; a batch of shorter or longer texts has as many tokens.
        progress: counts the texts.
        prompt: prefix for every text; None: the checkpoint's default prompt, if any.

    Returns:
        (N, D) float32 embeddings on the CPU.
    """
    on_cpu = encoder.device.type == "cpu"
    pieces = _pieces(texts, _TOKENIZED_TEXTS if on_cpu else _FIRST_TOKENIZED_TEXTS)
    tokenized = (tokenize(encoder.tokenizer, encoder.prepare(piece, prompt), encoder.max_length) for piece in pieces)
    out = torch.empty(len(texts), encoder.embedding_dim)
    start = 0
    # on a CPU, tokenising ahead would compete with the model for the cores
    for part in tokenized if on_cpu else prefetch(tokenized):
        try:
            out[start : start + len(part)] = embed_tokens(encoder, part, batch_size, progress)
        except NotFiniteError as error:
            raise NotFiniteError(start + error.place, texts[start + error.place]) from None
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
        tokens: the tokens of N texts.
        batch_size: batch size in texts of 128 tokens.
        progress: counts the texts.
        dropout_seed: keeps dropout on and seeds it; None: no dropout.
        share: (i, n) embeds only every n-th batch, starting with batch i (from 0); all other rows are zeros.

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
    max_tokens = int(batch_size * _TYPICAL_LENGTH * encoder.token_share)
    with embedding_mode(encoder, dropout=dropout_seed is not None):
        for number, batch in enumerate(_batches(order, tokens.lengths, max_tokens)):
            if number % step == first:
                if dropout_seed is not None:
                    torch.manual_seed(dropout_seed + number)  # does not depend on which batches this process embeds
                input_ids = torch.from_numpy(np.concatenate([rows[i] for i in batch])).long()
                lengths = torch.from_numpy(tokens.lengths[batch])
                longest = int(lengths[0])
                finished.append((batch, encoder(_send(input_ids, device), _send(lengths, device), longest)))
                if sum(len(done) for done, _ in finished) >= _FETCHED_TEXTS:
                    _fetch(finished, out)
            progress.update(len(batch))
        _fetch(finished, out)
        if number % step < first:
            # a model that is sharded over ranks must run on all of them: embed a dummy token
            one = torch.ones(1, dtype=torch.int64, device=device)
            encoder(one, one, 1)
    finite = out.isfinite().all(1)
    if step == 1 and not finite.all():  # of several ranks' shares, the sum is checked
        raise NotFiniteError(int(finite.int().argmin()))
    return out


def _pieces(texts: list[str], size: int) -> Iterator[list[str]]:
    """Cut texts into pieces, each twice as large as the previous one up to the maximum."""
    start = 0
    while start < len(texts):
        yield texts[start : start + size]
        start, size = start + size, min(2 * size, _TOKENIZED_TEXTS)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device, asynchronously to a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _batches(order: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Cut ordered texts into batches of at most `max_tokens` tokens, but at least one text."""
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        yield order[start:end]
        start = end


def _fetch(finished: list[tuple[NDArray[np.int64], Tensor]], out: Tensor) -> None:
    """Copy embeddings to the CPU, many at a time because each copy waits for the device."""
    if finished:
        rows = np.concatenate([batch for batch, _ in finished])
        out[rows] = torch.cat([embeddings for _, embeddings in finished])[:, : out.shape[1]].float().cpu()
        finished.clear()
