"""Files around a search: a corpus's embeddings from disk, and hits to disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cosent.errors import UserError
from cosent.inference.predictions import write_scored

if TYPE_CHECKING:  # these import torch or numpy
    import numpy as np
    from numpy.typing import NDArray

    from cosent.model.encoder import SentenceBert
    from cosent.model.search import Hits

_SAME = 0.99  # least cosine of two embeddings of a text, one of which may be computed or stored in half precision


class HitRow(NamedTuple):
    """A hit of a query; rank 1 is the best."""

    query: str
    rank: int
    score: float
    text: str
    query_id: str
    text_id: str

    def fields(self) -> dict[str, str | float | int | None]:
        """Return the values by column name, rounded as they are written."""
        return {**self._asdict(), "score": round(self.score, 6)}


def write_hits(path: str | Path, queries: Mapping[str, str], corpus: Mapping[str, str], hits: "Hits") -> int:
    """Write hits with their texts and ids, the best hit of each query first.

    Args:
        path: a .tsv (tabs and line breaks within texts become spaces), .csv or .jsonl file.
        queries: the texts of the queries by id, in the order of the search.
        corpus: the texts of the corpus by id, in the order of the search.
        hits: the hits among them.

    Returns:
        The number of rows.

    Raises:
        UserError: if the file type is unknown.
    """
    ids, texts = list(corpus), list(corpus.values())

    def rows() -> Iterator[HitRow]:
        for (query_id, query), indices, scores in zip(queries.items(), *hits, strict=True):
            for rank, (i, score) in enumerate(zip(indices, scores, strict=True), start=1):
                yield HitRow(query, rank, float(score), texts[i], query_id, ids[i])

    return write_scored(path, rows())


def open_embeddings(
    path: str | Path, model: "SentenceBert", texts: Sequence[str], *, document_prompt: str | None = None
) -> "NDArray[np.floating]":
    """Map a corpus's embeddings into memory, and check that they belong to it.

    Args:
        path: a .npy file, such as `encode_file` writes.
        model: the encoder that made them.
        texts: the N texts of the corpus; the first and the last one are embedded again.
        document_prompt: their prefix. None: the checkpoint's; see `search`.

    Returns:
        (N, D) embeddings, which are read when they are used.

    Raises:
        UserError: if the file is no such array, or was made from other texts, by another model or with another prompt.
    """
    import numpy as np

    from cosent.model.search import DOCUMENT_PROMPTS, prompt_for

    try:
        embeddings = np.load(path, mmap_mode="r")
        shape = embeddings.shape
    except (AttributeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a .npy file of embeddings") from error
    if shape != (len(texts), model.embedding_dim):
        raise UserError(
            f"{path} holds an array {shape}; the corpus has {len(texts):,} texts, and the model "
            f"{model.embedding_dim} dimensions"
        )
    ends = [0, len(texts) - 1]
    prompt = prompt_for(model, DOCUMENT_PROMPTS, document_prompt)
    expected: Any = model.encode([texts[row] for row in ends], prompt=prompt, convert_to_tensor=True)
    cosines = model.similarity(expected, embeddings[ends]).diagonal()
    if not (cosines > _SAME).all():
        raise UserError(
            f"{path} does not hold this model's embeddings of the corpus: its first and last row have cosines of "
            f"{cosines[0]:.3f} and {cosines[1]:.3f} to them. Make it anew, from the same texts (titles included) and "
            "with the same prompt"
        )
    return embeddings
