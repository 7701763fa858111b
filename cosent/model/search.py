"""Exact semantic search: for each query, the texts of a corpus with the highest cosines.

Shapes: Q queries, N texts in the corpus, U of them distinct, n in a block, q queries at a time, D dimensions, k hits.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cosent.errors import UserError
from cosent.model.embedding import check_list, check_texts, embed_texts
from cosent.model.quantization import is_quantized
from cosent.progress import is_watched
from cosent.similarity import cosine_matrix

if TYPE_CHECKING:
    from cosent.model.encoder import SentenceBert

# Names of stored prompts, in the order in which sentence-transformers looks for them.
QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage", "corpus")

_SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32

_Items = list[str] | NDArray[np.floating] | Tensor  # texts, or embeddings
_Embed = Callable[[list[str]], Tensor]  # texts -> (n, D)


class Hits(NamedTuple):
    """The best hits of Q queries, best first; those with equal scores stand in the order of the corpus.

    Attributes:
        indices: (Q, k) int64 positions in the corpus, from 0.
        scores: (Q, k) float32 cosines.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


@torch.inference_mode()
def search(
    model: "SentenceBert",
    queries: str | Sequence[str] | ArrayLike | Tensor,
    corpus: Sequence[str] | ArrayLike | Tensor,
    *,
    top_k: int = 10,
    batch_size: int = 64,
    block_size: int = 16_384,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    show_progress_bar: bool | None = None,
) -> Hits:
    """Find the texts of a corpus with the highest cosines to each query; every query is compared with every text.

    The corpus is embedded and compared block by block, so that only one block of its embeddings is in memory. Each
    distinct text is embedded once. To search a corpus more than once, pass its embeddings, which may be a
    memory-mapped file.

    Args:
        model: the encoder; its device computes the cosines, in float32.
        queries: one text, Q texts, or (Q, D) embeddings.
        corpus: N texts, or (N, D) embeddings. A text that occurs twice is two hits.
        top_k: number of hits per query.
        batch_size: batch size in texts of 128 tokens.
        block_size: number of the corpus's texts to embed and compare together.
        query_prompt: prefix for the queries. None: the checkpoint's prompt named "query", if any.
        document_prompt: prefix for the corpus's texts. None: the checkpoint's prompt named "document", "passage" or
            "corpus", if any.
        show_progress_bar: whether to show progress. None: in a terminal, for more than one batch.

    Returns:
        The k = min(top_k, N) best hits of each query; Q is 1 for one text. Equal texts have equal scores. Equal rows
        of embeddings may have scores that differ by rounding.

    Raises:
        TypeError: if an item is not a text; the message names it.
        UserError: if an option is out of range, or embeddings are not finite or have another shape.
    """
    for name, value in (("top_k", top_k), ("block_size", block_size)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if isinstance(corpus, str):
        raise TypeError("corpus must be a list of texts; put a single text in a list")
    wanted, items = _items([queries] if isinstance(queries, str) else queries, "queries"), _items(corpus, "corpus")
    distinct = list(dict.fromkeys(items)) if isinstance(items, list) else items
    num_texts = sum(len(side) for side in (wanted, distinct) if isinstance(side, list))
    show = num_texts > batch_size and is_watched() if show_progress_bar is None else show_progress_bar
    with tqdm(total=num_texts, desc="Encoding", unit="text", disable=not show) as progress:
        embed = partial(embed_texts, model, batch_size=batch_size, progress=progress)
        embed_queries = partial(embed, prompt=prompt_for(model, QUERY_PROMPTS, query_prompt))
        embed_corpus = partial(embed, prompt=prompt_for(model, DOCUMENT_PROMPTS, document_prompt))
        (embeddings,) = _blocks(wanted, "queries", embed_queries, max(len(wanted), 1))
        blocks = _blocks(distinct, "corpus", embed_corpus, block_size)
        hits = nearest(embeddings.to(model.device), (block.to(model.device) for block in blocks), top_k)
    return hits if len(distinct) == len(items) else _each_occurrence(hits, distinct, items, top_k)


def prompt_for(model: "SentenceBert", names: Sequence[str], given: str | None = None) -> str:
    """Choose the prompt of queries or documents; a checkpoint's default prompt is for neither.

    Args:
        model: the encoder.
        names: `QUERY_PROMPTS` or `DOCUMENT_PROMPTS`.
        given: replaces the checkpoint's prompts.

    Returns:
        The given prompt, else the first of these names with a prompt that is not empty, else "".
    """
    stored = model.settings.prompts
    return given if given is not None else next((stored[name] for name in names if stored.get(name)), "")


def nearest(queries: Tensor, blocks: Iterable[Tensor], top_k: int) -> Hits:
    """Find the rows of a matrix, given block by block, with the highest cosines to each query.

    Args:
        queries: (Q, D) embeddings.
        blocks: (n, D) blocks of the matrix, on the device of the queries.
        top_k: number of hits per query.

    Returns:
        The best hits of each query; fewer than `top_k` only if the matrix has fewer rows.

    Raises:
        UserError: if a block has another width than the queries.
    """
    scores = queries.new_empty(len(queries), 0, dtype=torch.float32)
    indices = queries.new_empty(len(queries), 0, dtype=torch.int64)
    start = 0
    for block in blocks:
        if block.shape[1] != queries.shape[1]:
            raise UserError(f"queries have {queries.shape[1]} dimensions, but the corpus has {block.shape[1]}")
        parts = queries.split(max(1, _SCORES_AT_ONCE // max(len(block), 1)))
        found = [_best_columns(cosine_matrix(part, block), top_k) for part in parts]
        scores = torch.cat([scores, torch.cat([best for best, _ in found])], dim=1)
        indices = torch.cat([indices, torch.cat([columns for _, columns in found]) + start], dim=1)
        # earlier blocks come first, so a stable sort keeps equal scores in the order of the rows
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
        start += len(block)
    return Hits(indices.cpu().numpy(), scores.cpu().numpy())


def _best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest of (q, n) scores in each row, and their columns; equal scores in the order of columns."""
    num_columns = scores.shape[1]
    values, columns = scores.topk(min(k + 1, num_columns), dim=1)
    if num_columns > k:
        # topk keeps any of equal scores: sort the rows in which some of them are among the best and others are not
        is_cut = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
        columns[is_cut] = scores[is_cut].sort(dim=1, descending=True, stable=True).indices[:, : k + 1]
    columns = columns[:, :k].sort(dim=1).values
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return order.values, columns.gather(1, order.indices)


def _each_occurrence(hits: Hits, distinct: _Items, items: _Items, top_k: int) -> Hits:
    """Turn hits among U distinct texts into hits among N texts, each of them with the score of its distinct text."""
    number = {text: i for i, text in enumerate(distinct)}
    owners = np.fromiter((number[text] for text in items), np.int64, len(items))  # (N,) among the distinct
    occurrences = np.argsort(owners, kind="stable")  # grouped by distinct text, each group in the corpus's order
    ends = np.cumsum(np.bincount(owners))
    found = []
    for row, scores in zip(hits.indices, hits.scores, strict=True):
        places = [occurrences[ends[i - 1] if i else 0 : ends[i]][:top_k] for i in row]
        repeated = np.repeat(scores, [len(place) for place in places])
        indices = np.concatenate(places)
        order = np.lexsort((indices, -repeated))[:top_k]
        found.append((indices[order], repeated[order]))
    k = min(top_k, len(items))
    all_indices = np.array([indices for indices, _ in found], dtype=np.int64).reshape(-1, k)
    return Hits(all_indices, np.array([scores for _, scores in found], dtype=np.float32).reshape(-1, k))


def _items(given: Sequence[str] | ArrayLike | Tensor, name: str) -> _Items:
    """Return texts as a list, and embeddings as they are: a memory-mapped file must not be read here."""
    if isinstance(given, Tensor) or isinstance(given, np.ndarray) and given.dtype.kind in "fiu":
        rows = given
        if is_quantized(rows):
            raise UserError(f"{name} are embeddings of {rows.dtype}; a search compares float embeddings")
    else:
        listed = check_list(given)
        if not listed or isinstance(listed[0], str):
            return check_texts(listed)
        rows = np.asarray(listed, dtype=np.float32)
    if rows.ndim != 2:
        raise UserError(f"{name} must be texts or embeddings (N, D), got shape {tuple(rows.shape)}")
    return rows


def _blocks(items: _Items, name: str, embed: _Embed, size: int) -> Iterator[Tensor]:
    """Yield (n, D) float32 embeddings of `size` items at a time; of no items, one empty block."""
    for start in range(0, max(len(items), 1), size):
        block = items[start : start + size]
        if isinstance(block, list):
            yield embed(block)
            continue
        rows = block.float() if isinstance(block, Tensor) else torch.from_numpy(np.array(block, dtype=np.float32))
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            raise UserError(f"{name}[{start + int(finite.int().argmin())}] is not finite")
        yield rows
