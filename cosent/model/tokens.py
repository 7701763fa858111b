"""Texts as flat token arrays: tokenised once, without padding.

Shapes: N texts, T tokens of all texts, concatenated.
"""

import inspect
import json
import logging
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from typing import Any, TypeGuard
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import tokenizers
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cosent.errors import CheckpointError, UserError
from cosent.model.stored import brief, read_object

logger = logging.getLogger(__name__)

_CONFIG = "tokenizer_config.json"

# A text with more characters than this per token of the limit is shortened before tokenisation.
_CHARACTERS_A_TOKEN = 32
_SPARE_TOKENS = 256  # kept in a shortened text, as a cut inside one of BERT's words changes up to a hundred

_PROBE = "a text, ein Wort, 一句话, \u0b9c \U0001fae0 \ue000"  # some of it in no vocabulary

_locks: "WeakKeyDictionary[PreTrainedTokenizerBase, Any]" = WeakKeyDictionary()
_locks_lock = Lock()

# The methods in which a fast tokenizer can change a text or its tokens on the way to or from its Rust backend.
# transformers' base class lacks the last two: a tokenizer class that defines them is called in full.
_METHODS_OF_A_CALL = (
    "__call__",
    "_get_padding_truncation_strategies",
    "_encode_plus",
    "_convert_encoding",
    "_batch_encode_plus",
    "_switch_to_input_mode",
)


def load_tokenizer(name: str, subfolder: str = "", **hub: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer and check that it has a vocabulary.

    Args:
        name: folder or hub id of the model.
        subfolder: folder within it that holds the tokenizer.
        hub: transformers' hub options: revision, trust_remote_code.

    Raises:
        CheckpointError: if the tokenizer cannot be loaded or has only special tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, subfolder=subfolder, **hub)
        _token_ids(tokenizer, [_PROBE], None)  # a vocabulary without an unknown token fails here
    except Exception as error:  # files of other origin can make transformers raise anything
        raise CheckpointError(f"the tokenizer of {name} cannot be loaded: {brief(error)}") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise CheckpointError(f"{name} holds no tokenizer: its vocabulary would be empty")
    return tokenizer


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, concatenated.

    Attributes:
        input_ids: (T,) int32, special tokens included.
        lengths: (N,) int64, number of tokens in each text.
    """

    input_ids: NDArray[np.int32]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def split(self) -> list[NDArray[np.int32]]:
        """Return the tokens of each text, as views."""
        return np.split(self.input_ids, np.cumsum(self.lengths)[:-1]) if len(self) else []

    def text_ids(self) -> NDArray[np.int64]:
        """Return (N,) ids that are equal exactly for texts with equal tokens (64-bit BLAKE2b of the tokens)."""
        digests = [blake2b(ids.tobytes(), digest_size=8).digest() for ids in self.split()]
        return np.frombuffer(b"".join(digests), dtype=np.int64)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> Tokens:
    """Tokenise texts with their special tokens, truncated to `max_length`.

    Args:
        tokenizer: the backbone's tokenizer.
        texts: N texts.
        max_length: maximum number of tokens in a text, special tokens included.

    Returns:
        The tokens of the N texts, in order. A text without tokens, such as "" for a tokenizer that adds no special
        tokens, gets a meaningless token, so that it has an embedding.

    Raises:
        UserError: if a text holds half a character, which no UTF-8 can hold.
    """
    if not texts:
        return Tokens(np.empty(0, np.int32), np.empty(0, np.int64))
    most = _CHARACTERS_A_TOKEN * max_length
    if max(map(len, texts)) > most:
        texts = [_shortened(tokenizer, text, max_length) if len(text) > most else text for text in texts]
    try:
        rows = _token_ids(tokenizer, texts, max_length)
    except (TypeError, UnicodeEncodeError):
        _refuse_surrogates(texts)
        raise
    if not all(rows):
        rows = [row or [_stand_in(tokenizer)] for row in rows]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return Tokens(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=lengths.sum()), lengths)


def _refuse_surrogates(texts: list[str]) -> None:
    for text in texts:
        for place, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                near = text[max(0, place - 30) : place + 30]
                raise UserError(
                    f"the text {near!r} holds {character!r}, half of a UTF-16 pair and no character: it was decoded or "
                    'cut wrongly. text.encode("utf-8", "replace").decode() makes a question mark of it'
                )


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int | None) -> list[list[int]]:
    """Return the token ids of each text, special tokens included; None: without truncation."""
    with _lock_of(tokenizer):
        if not _calls_only_its_backend(tokenizer):
            return tokenizer(
                texts,
                truncation=max_length is not None,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        # Calling the tokenizer does the same, but also computes offsets and builds a dict for each text.
        backend = tokenizer.backend_tokenizer
        wanted = _set(backend, tokenizer, max_length)
        rows = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
        # A backend keeps the truncation of its latest call. Our own threads wait for the lock, other threads do not.
        if _state(backend) != wanted:
            backend = Tokenizer.from_str(backend.to_str())
            _set(backend, tokenizer, max_length)
            rows = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
        return rows


def _set(backend: Tokenizer, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> tuple[Any, ...]:
    """Set a backend's truncation and padding as transformers would, and return its expected state.

    Settings are written only if they differ, because a write waits for every thread that is encoding.
    """
    truncation: dict[str, Any] | None = None
    if max_length is not None:
        side = tokenizer.truncation_side
        truncation = {"direction": side, "max_length": max_length, "strategy": "longest_first", "stride": 0}
    wanted = truncation, None, tokenizer.split_special_tokens
    if backend.truncation != truncation:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
    if backend.padding is not None:
        backend.no_padding()
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    return wanted


def forget_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop the truncation and padding that a fast tokenizer keeps from its latest call, and would save.

    Args:
        tokenizer: the backbone's tokenizer; later calls set both anew.
    """
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        with _lock_of(tokenizer):
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()


def _state(backend: Tokenizer) -> tuple[Any, ...]:
    return backend.truncation, backend.padding, backend.encode_special_tokens


def _lock_of(tokenizer: PreTrainedTokenizerBase) -> Any:
    with _locks_lock:
        return _locks.setdefault(tokenizer, RLock())


def _shortened(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> str:
    """Cut off most of the text that truncation would drop, so that it need not be tokenised.

    A few more tokens are kept than truncation keeps, as a cut may change the tokens next to it.
    """
    size = _CHARACTERS_A_TOKEN * max_length
    while size < len(text):
        part = text[-size:] if tokenizer.truncation_side == "left" else text[:size]
        if len(_token_ids(tokenizer, [part], None)[0]) > max_length + _SPARE_TOKENS:
            return part
        size *= 4
    return text


def end_with_eos(tokenizer: PreTrainedTokenizerBase, name: str, subfolder: str, revision: str | None) -> None:
    """Make a tokenizer end texts with its end token if its configuration says so but its post-processor does not.

    Args:
        tokenizer: the tokenizer of a model that pools the last token; changed in place.
        name: folder or hub id from which it was loaded.
        subfolder: folder within it that holds the tokenizer.
        revision: revision of the hub repository.

    Raises:
        CheckpointError: if the tokenizer has no end token, or cannot be changed.
    """
    config = read_object(name, f"{subfolder}/{_CONFIG}" if subfolder else _CONFIG, revision)
    if config is None or config.values.get("add_eos_token") is not True:
        return
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None or not tokenizer.is_fast:
        raise config.error("add_eos_token", "true only where the tokenizer has an end token and a tokenizer.json")
    if _token_ids(tokenizer, ["a text"], None)[0][-1:] == [eos_id]:
        return
    logger.info("%s: texts end with %s, as add_eos_token says, though tokenizer.json does not add it", name, eos)
    backend = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    state["post_processor"] = _ending(state["post_processor"], eos, eos_id)
    backend.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor


def _ending(processor: dict[str, Any] | None, eos: str, eos_id: int) -> dict[str, Any]:
    """Make a post-processor, in the format of tokenizer.json, that also ends texts with a token."""
    steps = [] if processor is None else processor.get("processors", [processor])
    end = [{"SpecialToken": {"id": eos, "type_id": kind}} for kind in (0, 1)]
    text = [{"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB")]
    template = next((step for step in steps if step["type"] == "TemplateProcessing"), None)
    if template is None:
        template = {"type": "TemplateProcessing", "single": text[:1], "pair": text, "special_tokens": {}}
        steps = [*steps, template]
    template["single"] = [*template["single"], end[0]]
    template["pair"] = [*template["pair"], end[1]]
    template["special_tokens"] = {**template["special_tokens"], eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}}
    return template if len(steps) == 1 else {"type": "Sequence", "processors": steps}


def lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a fast tokenizer lower-case texts, except for special tokens in them, as sentence-transformers does.

    Args:
        tokenizer: the tokenizer; changed in place.
    """
    if tokenizer.is_fast and not lower_cases(tokenizer):
        backend = tokenizer.backend_tokenizer
        steps = _steps(backend.normalizer)
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def lower_cases(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether `lower_case` has changed a tokenizer, or would change nothing.

    Args:
        tokenizer: the backbone's tokenizer.
    """
    if not tokenizer.is_fast:
        return False
    return any(isinstance(step, normalizers.Lowercase) for step in _steps(tokenizer.backend_tokenizer.normalizer))


def _steps(normalizer: Any) -> list[Any]:
    steps: Any = normalizer  # the class of sequences lacks the types of what it holds
    if isinstance(normalizer, normalizers.Sequence):
        return list(steps)
    return [] if normalizer is None else [normalizer]


def _calls_only_its_backend(tokenizer: PreTrainedTokenizerBase) -> TypeGuard[PreTrainedTokenizerFast]:
    """Tell whether a tokenizer has a Rust backend and its class leaves transformers' calls of it unchanged."""
    own, plain = type(tokenizer), PreTrainedTokenizerFast
    return isinstance(tokenizer, plain) and all(
        getattr(own, name, None) is getattr(plain, name, None) for name in _METHODS_OF_A_CALL
    )


def _stand_in(tokenizer: PreTrainedTokenizerBase) -> int:
    candidates = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token_id for token_id in candidates if token_id is not None), 0)


def is_truncated(tokenizer: PreTrainedTokenizerBase, texts: list[str], tokens: Tokens, max_length: int) -> list[bool]:
    """Tell which texts were truncated; only texts at the limit are tokenised again, in full.

    Args:
        tokenizer: the backbone's tokenizer.
        texts: N texts.
        tokens: their tokens from `tokenize`.
        max_length: the limit passed to `tokenize`.

    Returns:
        N booleans.
    """
    at_limit = np.flatnonzero(tokens.lengths >= max_length)
    truncated = [False] * len(texts)
    for i in at_limit:
        whole = _token_ids(tokenizer, [_shortened(tokenizer, texts[i], max_length)], None)
        truncated[i] = len(whole[0]) > max_length
    return truncated


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Compute a digest of a tokenizer's behaviour, equal in every process for tokenizers that behave alike.

    Args:
        tokenizer: the backbone's tokenizer.

    Returns:
        A hexadecimal digest.
    """
    state: dict[str, Any] = {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "versions": (transformers.__version__, tokenizers.__version__),
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "stand_in": _stand_in(tokenizer),
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        state["backend"] = backend | {"truncation": None, "padding": None}  # left over from earlier calls
    if not _calls_only_its_backend(tokenizer):
        state["files"] = _saved(tokenizer)
        state["code"] = _code(type(tokenizer))
    return blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()


def _saved(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Return the digests of the files that a tokenizer saves."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        config = Path(folder, _CONFIG)
        values = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**values, "name_or_path": None}, sort_keys=True), encoding="utf-8")
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        return {path.name: blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files}


def _code(kind: type) -> list[str]:
    """Return the source of a class and of its parents outside transformers."""
    known = ("transformers", "builtins", "typing")
    foreign = [parent for parent in kind.__mro__ if parent.__module__.partition(".")[0] not in known]
    try:
        return [inspect.getsource(parent) for parent in foreign]
    except (OSError, TypeError):  # a class without a file may be another one next time
        return [uuid4().hex]
