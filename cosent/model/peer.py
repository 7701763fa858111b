"""The members of a sentence encoder that exist for other packages, with the names and meanings that these expect.

Shapes: N, M texts, P pairs, D dimensions.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import HfApi
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from cosent.errors import UserError, check_whole
from cosent.kernels.walk import modules_of, weights_of
from cosent.model.backbone import text_limit
from cosent.model.fingerprint import Fingerprint
from cosent.model.loading import move
from cosent.model.modes import mode_change
from cosent.model.quantization import is_quantized
from cosent.model.settings import Settings
from cosent.model.stored import brief
from cosent.similarity import balanced, cosine_matrix, pairwise_cosine

Comparison = Callable[[Tensor, Tensor], Tensor]


class _Similarity(NamedTuple):
    """A similarity of (N, D) with (M, D) embeddings, (N, M), and of (P, D) with (P, D) embeddings, (P,)."""

    matrix: Comparison
    pairwise: Comparison


# By sentence-transformers' names. A distance counts as its negative.
SIMILARITIES: dict[str, _Similarity] = {
    "cosine": _Similarity(
        lambda a, b: cosine_matrix(balanced(a), balanced(b)), lambda a, b: pairwise_cosine(balanced(a), balanced(b))
    ),
    "dot": _Similarity(lambda a, b: a @ b.T, lambda a, b: (a * b).sum(-1)),
    "euclidean": _Similarity(lambda a, b: -torch.cdist(a, b), lambda a, b: -torch.linalg.vector_norm(a - b, dim=-1)),
    "manhattan": _Similarity(lambda a, b: -torch.cdist(a, b, p=1), lambda a, b: -(a - b).abs().sum(-1)),
}

# sentence-transformers gives every model these prompts.
DEFAULT_PROMPTS = {"query": "", "document": ""}


def read_prompt(
    prompt: str | None, prompt_name: str | None, prompts: Mapping[str, str], options: Mapping[str, Any]
) -> str | None:
    """Choose the prompt of a call of `encode`, and refuse options that cannot be followed.

    Args:
        prompt: the prefix for every text, if given.
        prompt_name: its name, if given.
        prompts: the model's prompts, by name.
        options: further options of the call. sentence-transformers' `task` has no effect: a model with one part for
            queries and another one for documents is refused when it is loaded.

    Returns:
        The prompt; None: the model's default prompt.

    Raises:
        TypeError: if an option is unknown.
        UserError: if an option cannot be followed, or there is no prompt of this name.
    """
    for name in ("pool", "chunk_size"):
        if options.get(name) is not None:
            raise UserError(
                f"{name} is not supported: a model embeds in the process that calls it. `torchrun -m cosent encode` "
                "embeds a file in several"
            )
    if unknown := sorted(set(options) - {"pool", "chunk_size", "task"}):
        raise TypeError(f"encode() got an unexpected keyword argument {unknown[0]!r}")
    if prompt is not None or prompt_name is None:
        return prompt
    if prompt_name not in prompts:
        raise UserError(f"prompt_name must be one of {', '.join(prompts) or 'no prompts'}, got {prompt_name!r}")
    return prompts[prompt_name]


def move_if_elsewhere(model: nn.Module, device: Any) -> None:
    """Move a model to a device unless it is there: a move drops recorded CUDA graphs.

    Args:
        model: the model.
        device: the device.

    Raises:
        UserError: if it is a list of devices, or cannot be used.
    """
    if isinstance(device, list | tuple):
        raise UserError(
            f"device must be one device, such as 'cuda:1', got {device!r}. `torchrun -m cosent encode` embeds a file "
            "on several"
        )
    now = next(model.parameters()).device
    if str(device) not in (str(now), now.type):
        move(model, device)


class ModelCard:
    """What sentence-transformers and mteb expect of a model's `model_card_data`.

    Attributes:
        base_model: hub id or folder of the model; names the files of `mine_hard_negatives`' cache.
        model_name: what mteb files its results under.
        base_model_revision: the same exactly for the same embeddings, so that mteb never takes another model's results.

    Args:
        model: the model.
    """

    def __init__(self, model: "PeerMembers"):
        self.base_model = model.name_or_path
        folder = Path(model.name_or_path)
        self.model_name = f"cosent/{folder.resolve().name}" if folder.is_dir() else model.name_or_path
        self._model = model

    @property
    def base_model_revision(self) -> str:
        model = self._model
        chosen = model.max_length, model.truncate_dim, model.prompts, model.default_prompt_name
        return blake2b(repr((model._fingerprint(), chosen)).encode(), digest_size=8).hexdigest()

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0) -> None:
        """Ignore an evaluator's metrics, which the evaluator returns, too."""


class PeerMembers(nn.Module):
    """The members of `SentenceBert` that exist for other packages."""

    backbone: PreTrainedModel
    tokenizer: Any
    settings: Settings
    name_or_path: str
    max_length: int
    encode: Any
    save_pretrained: Any

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device: ...

        @property
        def embedding_dim(self) -> int: ...

        def _fingerprint(self) -> Fingerprint: ...

    # sentence-transformers, and mteb, which wraps its models

    def encode_query(self, sentences: str | Sequence[str], **options: Any) -> Any:
        """Embed queries: `encode`, with the prompt named "query" unless another one is given.

        Args:
            sentences: one text, or N texts.
            options: the options of `encode`.
        """
        return self._encode_as("query", sentences, options)

    def encode_document(self, sentences: str | Sequence[str], **options: Any) -> Any:
        """Embed documents: `encode`, with the prompt named "document" unless another one is given.

        Args:
            sentences: one text, or N texts.
            options: the options of `encode`.
        """
        return self._encode_as("document", sentences, options)

    def _encode_as(self, role: str, sentences: str | Sequence[str], options: dict[str, Any]) -> Any:
        if options.get("prompt") is None and options.get("prompt_name") is None and role in self.prompts:
            options["prompt_name"] = role
        return self.encode(sentences, **options)

    def similarity(self, a: Sequence[str] | ArrayLike | Tensor, b: Sequence[str] | ArrayLike | Tensor) -> Tensor:
        """Compare every item of `a` with every item of `b`, by `similarity_fn_name`: by default, the cosine.

        Args:
            a: N texts, or (N, D) embeddings.
            b: M texts, or (M, D) embeddings.

        Returns:
            (N, M) float32 similarities, on the device of the embeddings.
        """
        return SIMILARITIES[self.similarity_fn_name].matrix(*self._both(a, b))

    def similarity_pairwise(
        self, a: Sequence[str] | ArrayLike | Tensor, b: Sequence[str] | ArrayLike | Tensor
    ) -> Tensor:
        """Compare each item of `a` with the same item of `b`, by `similarity_fn_name`.

        Args:
            a: P texts, or (P, D) embeddings.
            b: P texts, or (P, D) embeddings.

        Returns:
            (P,) float32 similarities, on the device of the embeddings.
        """
        return SIMILARITIES[self.similarity_fn_name].pairwise(*self._both(a, b))

    def _both(self, a: Any, b: Any) -> tuple[Tensor, Tensor]:
        if is_quantized(a) != is_quantized(b):
            raise UserError("embeddings in whole numbers, as precision='int8' gives, and in floats cannot be compared")
        a, b = self._embeddings(a), self._embeddings(b)
        return (a, b) if a.device == b.device else (a.cpu(), b.cpu())

    def _embeddings(self, given: Any) -> Tensor:
        """Embed texts, and turn embeddings of any kind into an (N, D) tensor."""
        if isinstance(given, str):
            raise TypeError("similarity takes lists of texts; put a single text in a list")
        if not isinstance(given, Tensor):
            if not len(given) or isinstance(given[0], str):
                return torch.from_numpy(self.encode(given))
            if isinstance(given[0], Tensor):
                given = torch.stack(list(given))
            else:
                given = torch.from_numpy(np.asarray(given, dtype=np.float32))
        return (given[None] if given.ndim == 1 else given).float()

    @property
    def similarity_fn_name(self) -> str:
        """How `similarity` compares: "cosine", "dot", "euclidean" or "manhattan". `predict` always takes cosines."""
        stored = self.settings.similarity_fn_name
        return stored if stored in SIMILARITIES else "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str | None) -> None:
        name = getattr(name, "value", name)  # sentence-transformers has an enum of these names
        if name is not None and name not in SIMILARITIES:
            raise UserError(f"similarity_fn_name must be one of {', '.join(SIMILARITIES)}, got {name!r}")
        self.settings.similarity_fn_name = name

    @property
    def prompts(self) -> dict[str, str]:
        """Prefixes for texts, by name."""
        return self.settings.prompts

    @prompts.setter
    def prompts(self, prompts: dict[str, str]) -> None:
        self.settings.prompts = prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt that `encode` uses if none is given."""
        return self.settings.default_prompt_name

    @default_prompt_name.setter
    def default_prompt_name(self, name: str | None) -> None:
        if name is not None and name not in self.prompts:
            raise UserError(f"default_prompt_name must be one of {', '.join(self.prompts)}, got {name!r}")
        self.settings.default_prompt_name = name

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens in a text: `max_length`, checked when it is set."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, max_length: int) -> None:
        self.max_length = text_limit(max_length, None, self.tokenizer, self.backbone)

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_length

    @property
    def truncate_dim(self) -> int | None:
        """The number of first dimensions that `encode` keeps; None: all. A stored threshold stays for what it is."""
        return self.settings.truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, dim: int | None) -> None:
        if dim is not None:
            check_whole("truncate_dim", dim, 1, self.backbone.config.hidden_size)
        decision = self.settings.decision
        if decision is not None and decision.truncate_dim is None:
            self.settings.decision = replace(decision, truncate_dim=self.embedding_dim)
        self.settings.truncate_dim = dim

    def get_embedding_dimension(self) -> int:
        """Return `embedding_dim`, the number of dimensions of an embedding from `encode`."""
        return self.embedding_dim

    def get_sentence_embedding_dimension(self) -> int:
        """Return `embedding_dim`; the name before sentence-transformers 6."""
        return self.embedding_dim

    @property
    def model_card_data(self) -> ModelCard:
        """What sentence-transformers' evaluators and mteb ask about the model."""
        return ModelCard(self)

    @property
    def mteb_model_meta(self) -> Any:
        """Refuse a call of mteb that would take this model for a cross-encoder, as it has `predict`."""
        if "mteb" not in sys.modules:
            raise AttributeError("mteb_model_meta")
        raise UserError("give mteb a wrapper of its own: mteb.models.SentenceTransformerEncoderWrapper(model)")

    # scikit-learn

    def fit(self, texts: Any = None, labels: Any = None) -> "PeerMembers":
        """Do nothing, as scikit-learn's pipelines fit each step: the model stays as it is; `CosentTrainer` trains it.

        Args:
            texts: ignored.
            labels: ignored.
        """
        return self

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts with the default options of `encode`.

        Args:
            texts: N texts.

        Returns:
            (N, D) float32 embeddings.
        """
        return self.encode(list(texts))

    def __sklearn_clone__(self) -> "PeerMembers":
        """Return this model: `fit` changes nothing, so that the steps of all folds can share it."""
        return self

    # the Hugging Face hub

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        exist_ok: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face hub.

        Args:
            repo_id: the repository, such as "name/my-model"; created if it does not exist.
            token: the token to upload with. None: the one of `hf auth login`.
            private: whether a new repository is private. None: the default of its owner.
            revision: the branch to upload to; created if it does not exist. None: the main branch.
            commit_message: the message of the commit.
            exist_ok: whether the repository may exist already. Its README.md is kept.

        Returns:
            The address of the commit.

        Raises:
            UserError: if the hub refuses, or cannot be reached.
        """
        api = HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                repo_id = api.create_repo(repo_id, private=private, exist_ok=exist_ok).repo_id
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, exist_ok=True)
                has_card = exist_ok and api.file_exists(repo_id, "README.md", revision=revision)
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=revision,
                    commit_message=commit_message or "Add a sentence encoder of cosent",
                    ignore_patterns=["README.md"] if has_card else None,
                )
            except Exception as error:  # the hub's client raises errors of many kinds
                hint = "" if exist_ok else "; exist_ok=True uploads to a repository that exists"
                raise UserError(f"{repo_id} cannot be uploaded: {brief(error)}{hint}") from error
        return commit.commit_url

    # transformers' Trainer

    def train(self, mode: bool = True) -> Any:
        """Set the mode, but where a thread embeds with this model, only once it is done.

        In addition, this is faster than torch's method if nothing changes: the Trainer calls it at every step.
        """
        with mode_change(self, mode) as may_change:
            if may_change and not all(module.training == mode for module in modules_of(self)):
                super().train(mode)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Override torch's method for speed: the Trainer calls it at every step."""
        if not set_to_none:
            return super().zero_grad(set_to_none)
        for weight in weights_of(self):
            weight.grad = None

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass; the Trainer calls this with the backbone's options."""
        self.backbone.activation_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's token embeddings; the Trainer needs them to add NEFTune's noise."""
        return self.backbone.get_input_embeddings()
