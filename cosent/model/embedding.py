"""The embedding loop: embeds any number of texts, batch by batch, in bounded device memory.

Shapes: N texts, T tokens of a batch, n texts of a batch, D dimensions.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cosent.errors import UserError, check_whole
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

    backbone: Any
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
    texts = check_list(sentences)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"sentences[{i}] must be a text, got {text!r} of type {type(text).__name__}")
    return texts


def check_list(sentences: Any) -> list[Any]:
    """Turn a sequence into a list, but refuse a dict or a table, of which only the keys would be taken.

    Args:
        sentences: the items.

    Raises:
        TypeError: if so.
    """
    if isinstance(sentences, Mapping) or hasattr(sentences, "columns"):
        raise TypeError(
            f"sentences must be a list of texts, got a {type(sentences).__name__}; take its values, or one column"
        )
    return list(sentences)


def embed_texts(
    encoder: Encoder, texts: list[str], batch_size: int, progress: tqdm, prompt: str | None, dim: int | None = None
) -> Tensor:
    """Tokenise and embed texts.

    Args:
        encoder: the encoder.
        texts: N texts.
        batch_size: batch size in texts of 128 tokens; a batch of shorter or longer texts has as many tokens.
        progress: counts the texts.
        prompt: prefix for every text; None: the checkpoint's default prompt, if any.
        dim: D, the number of first dimensions to keep; None: the encoder's.

    Returns:
        (N, D) float32 embeddings on the CPU.
    """
    dim = encoder.embedding_dim if dim is None else dim
    on_cpu = encoder.device.type == "cpu"
    pieces = _pieces(texts, _TOKENIZED_TEXTS if on_cpu else _FIRST_TOKENIZED_TEXTS)
    tokenized = (tokenize(encoder.tokenizer, encoder.prepare(piece, prompt), encoder.max_length) for piece in pieces)
    out = torch.empty(len(texts), dim)
    start = 0
    # on a CPU, tokenising ahead would compete with the model for the cores
    for part in tokenized if on_cpu else prefetch(tokenized):
        try:
            out[start : start + len(part)] = embed_tokens(encoder, part, batch_size, progress, dim=dim)
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
    dim: int | None = None,
) -> Tensor:
    """Embed tokenised texts, the longest first.

    Args:
        encoder: the encoder.
        tokens: the tokens of N texts.
        batch_size: batch size in texts of 128 tokens.
        progress: counts the texts.
        dropout_seed: keeps dropout on and seeds it; None: no dropout.
        share: (i, n) embeds only every n-th batch, starting with batch i (from 0); all other rows are zeros.
        dim: D, the number of first dimensions to keep; None: the encoder's.

    Returns:
        (N, D) float32 embeddings on the CPU, in the order given.

    Raises:
        UserError: if the batch size is below 1.
    """
    out = torch.zeros(len(tokens), encoder.embedding_dim if dim is None else dim, dtype=torch.float32)
    rows = tokens.split()
    finished: list[tuple[NDArray[np.int64], Tensor]] = []
    device = encoder.device
    first, step = share
    number = -1
    with embedding_mode(encoder, dropout=dropout_seed is not None):
        for number, batch in enumerate(batches(tokens, batch_size, encoder.token_share)):
            if number % step == first:
                if dropout_seed is not None:
                    torch.manual_seed(dropout_seed + number)  # does not depend on which batches this process embeds
                finished.append((batch, encoder(*flat_batch(rows, batch, device))))
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


def batches(tokens: Tokens, batch_size: int, token_share: float = 1.0) -> Iterator[NDArray[np.int64]]:
    """Cut texts, the longest first, into batches of a bounded number of tokens, but at least one text.

    Args:
        tokens: the tokens of N texts.
        batch_size: batch size in texts of 128 tokens.
        token_share: the share of a batch's tokens that texts may take.

    Yields:
        (n,) indices of texts.

    Raises:
        UserError: if the batch size is below 1.
    """
    check_whole("batch_size", batch_size, 1)
    max_tokens = int(batch_size * _TYPICAL_LENGTH * token_share)
    order = np.argsort(-tokens.lengths, kind="stable")
    ends = np.cumsum(tokens.lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        yield order[start:end]
        start = end


def flat_batch(
    rows: list[NDArray[np.int32]], batch: NDArray[np.int64], device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Put the tokens of some texts on a device, without padding.

    Args:
        rows: the tokens of N texts.
        batch: (n,) indices of texts, the longest first.
        device: the device.

    Returns:
        The (T,) tokens and (n,) lengths, int64, and the largest length.
    """
    chosen = [rows[i] for i in batch]
    input_ids = torch.from_numpy(np.concatenate(chosen)).long()
    lengths = torch.tensor([len(row) for row in chosen])
    return _send(input_ids, device), _send(lengths, device), len(chosen[0])


def _pieces(texts: list[str], size: int) -> Iterator[list[str]]:
    """Cut texts into pieces, each twice as large as the previous one up to the maximum."""
    start = 0
    while start < len(texts):
        yield texts[start : start + size]
        start, size = start + size, min(2 * size, _TOKENIZED_TEXTS)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device, asynchronously to a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _fetch(finished: list[tuple[NDArray[np.int64], Tensor]], out: Tensor) -> None:
    """Copy embeddings to the CPU, many at a time because each copy waits for the device."""
    if finished:
        rows = np.concatenate([batch for batch, _ in finished])
        out[rows] = torch.cat([embeddings for _, embeddings in finished])[:, : out.shape[1]].float().cpu()
        finished.clear()
