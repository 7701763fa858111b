"""Texts as flat token arrays: tokenised once, without padding.

Shapes: N texts, T tokens of all texts one after the other.
"""

import json
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from cosent.errors import CheckpointError

# The methods that can change a text, or its tokens, between the call of a fast tokenizer and its Rust backend.
# transformers' base class lacks the last two: where a tokenizer's own class has them, it is called.
_METHODS_OF_A_CALL = (
    "__call__",
    "_get_padding_truncation_strategies",
    "_encode_plus",
    "_convert_encoding",
    "_batch_encode_plus",
    "_switch_to_input_mode",
)


def load_tokenizer(name: str, subfolder: str = "", **hub: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and insist on its vocabulary.

    Args:
        name: folder or hub id.
        subfolder: of it.
        hub: transformers' options for the hub: revision, trust_remote_code.

    Raises:
        CheckpointError: if it cannot be loaded, or knows nothing but special tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, **hub)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the tokenizer of {name} cannot be loaded: {error}") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise CheckpointError(f"{name} holds no tokenizer: its vocabulary would be empty")
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, one after the other.

    Attributes:
        input_ids: (T,) int32, special tokens included.
        lengths: (N,) int64, tokens in each text.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def split(self) -> list[NDArray[np.int32]]:
        """The tokens of each text, as views."""
        return np.split(self.input_ids, np.cumsum(self.lengths)[:-1]) if len(self) else []

    def text_ids(self) -> NDArray[np.int64]:
        """(N,) ids that are equal exactly where two texts' tokens are equal (a 64-bit BLAKE2b of the tokens)."""
        digests = [blake2b(ids.tobytes(), digest_size=8).digest() for ids in self.split()]
        return np.frombuffer(b"".join(digests), dtype=np.int64)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> Tokens:
    """Tokenise texts with their special tokens, cut to a number of tokens.

    Args:
        tokenizer: of the backbone.
        texts: N texts.
        max_length: tokens in a text at most, special tokens included.

    Returns:
        The tokens of the N texts, in order. A text without any, such as "" for a tokenizer that adds no special
        tokens, gets one that means nothing, so that it has an embedding.
    """
    if not texts:
        return Tokens(np.empty(0, np.int32), np.empty(0, np.int64))
    rows = _token_ids(tokenizer, texts, max_length)
    if not all(rows):
        rows = [row or [_stand_in(tokenizer)] for row in rows]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=lengths.sum()), lengths)


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list[list[int]]:
    """The ids of each text, special tokens included."""
    if not _calls_only_its_backend(tokenizer):
        return tokenizer(
            texts,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    # The call above does the same, and also computes offsets and builds a dict for each text. Both settings are written
    # only where they differ, because writing one waits for every thread that is encoding.
    tokenizer.set_truncation_and_padding(
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        truncation_strategy=TruncationStrategy.LONGEST_FIRST,
        max_length=max_length,
        stride=0,
        pad_to_multiple_of=None,
        padding_side=None,
    )
    backend = tokenizer.backend_tokenizer
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    return [encoding.ids for encoding in backend.encode_batch_fast(texts)]


def _calls_only_its_backend(tokenizer: PreTrainedTokenizerBase) -> TypeGuard[PreTrainedTokenizerFast]:
    """Tell whether a tokenizer has a Rust backend, and its class adds nothing to how transformers calls it."""
    own, plain = type(tokenizer), PreTrainedTokenizerFast
    return isinstance(tokenizer, plain) and all(
        getattr(own, name, None) is getattr(plain, name, None) for name in _METHODS_OF_A_CALL
    )


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    candidates = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token_id for token_id in candidates if token_id is not None), 0)


def is_truncated(tokenizer: PreTrainedTokenizerBase, texts: list[str], tokens: Tokens, max_length: int) -> list[bool]:
    """Tell which texts lost tokens to the limit; only texts at the limit are tokenised again, whole.

    Args:
        tokenizer: of the backbone.
        texts: N texts.
        tokens: what `tokenize` made of them.
        max_length: the limit that it was given.

    Returns:
        N booleans.
    """
    at_limit = np.flatnonzero(tokens.lengths >= max_length)
    truncated = [False] * len(texts)
    for i in at_limit:
        whole = tokenizer(texts[i], truncation=False, verbose=False)["input_ids"]
        truncated[i] = len(whole) > max_length
    return truncated


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A name for what a tokenizer does to a text; two that do the same share it, in any process.

    Args:
        tokenizer: of the backbone.

    Returns:
        A hexadecimal digest.
    """
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.update(truncation=None, padding=None)  # left over from earlier calls
    else:
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()
