"""SentenceBert: a backbone, its tokenizer and a pooling; texts in, embeddings out.

Shapes: N texts, T tokens of all texts one after the other, D dimensions, P pairs.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from cosent.distributed import num_ranks
from cosent.errors import UserError
from cosent.kernels.attention import wants_sorted
from cosent.kernels.dropout import random_state, set_random_state, use_fast_dropout
from cosent.kernels.filling import ROOM
from cosent.kernels.graphs import CudaGraphs, EncoderGraphs
from cosent.kernels.packing import (
    Packing,
    is_packed,
    sort_by_length,
    token_states,
    use_packed_attention,
)
from cosent.kernels.walk import modules_of, weights_of
from cosent.model.backbone import default_device, load_backbone, shall_pack, text_limit
from cosent.model.checkpoint import read_settings, write_settings
from cosent.model.embedding import check_texts, embed_texts, embed_tokens
from cosent.model.pooling import POOLING_MODES, PoolingMode, check_pooling_mode, pool
from cosent.model.tokens import Tokens, load_tokenizer
from cosent.progress import is_watched
from cosent.similarity import cosine_matrix, pairwise_cosine

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """What a model says of P pairs.

    Attributes:
        scores: (P,) float32 cosines.
        matches: (P,) booleans, whether the score is at or above the threshold.
        probabilities: (P,) float64 of a match; None where the checkpoint stores no calibration.
    """

    scores: NDArray[np.float32]
    matches: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None = None


class SentenceBert(nn.Module):
    """A sentence encoder: the cosine of two texts' embeddings says whether they match.

    Args:
        model_name_or_path: a hub id, a plain Hugging Face folder, or a checkpoint of ours or of
            sentence-transformers.
        pooling_mode: "mean", "cls", "max", "last", "pooler", "first_last_avg" (the first and the last layer's
            mean) or "last_avg" (another name of "mean"). None: what the checkpoint says, else "mean".
        max_length: tokens in a text at most, special tokens included. None: what the checkpoint says, else the
            tokenizer's and the backbone's limit.
        normalize_embeddings: whether embeddings get unit length. None: what the checkpoint says, else False.
        trust_remote_code: whether code from the checkpoint may run.
        revision: of the hub repository.
        dtype: of the weights, "float32" for example. None: as stored in the checkpoint.
        device: where to put the model. None: an accelerator where there is one.
        config_name: folder or hub id of another configuration.
        tokenizer_name: folder or hub id of another tokenizer.
        attn_implementation: transformers' name of an attention implementation.
        dropout: rate of hidden and attention dropout in training, from 0 to below 1. None: what the checkpoint says.
        packing: whether texts run through the backbone without any padding. "auto": where its architecture is known
            to allow it and no `attn_implementation` is named; "off", and otherwise: padded, in groups of similar
            length. Embeddings are the same.
        cuda_graphs: whether what the encoder does on a GPU is recorded, for each of a few sizes of batches, and
            replayed: in `encode`, in evaluation, and when `CosentTrainer` trains it. "auto": where it can be; "on": an
            error where it cannot; "off": never. Embeddings are the same.

    Attributes:
        pooling_mode: as resolved; so are `max_length` and `normalize_embeddings`, and all three go into checkpoints.
        name_or_path: what was loaded.
        settings: what else the checkpoint says: prompts, the loss that trained it, the stored decision threshold.

    Raises:
        CheckpointError: if the model cannot be loaded, or lacks weights of its encoder.
        UserError: if an option is unknown or out of range.
    """

    backbone: PreTrainedModel

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        pooling_mode: PoolingMode | None = None,
        max_length: int | None = None,
        normalize_embeddings: bool | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        config_name: str | None = None,
        tokenizer_name: str | None = None,
        attn_implementation: str | None = None,
        dropout: float | None = None,
        packing: Packing = "auto",
        cuda_graphs: CudaGraphs = "auto",
    ):
        super().__init__()
        name = str(model_name_or_path)
        settings = read_settings(name, revision)
        if pooling_mode not in (None, settings.pooling_mode):
            settings.decision = None  # a threshold belongs to the embeddings that it was chosen for
        if pooling_mode is None and settings.pooling_mode is None:
            logger.info("%s does not say how to pool its tokens: taking their mean (pooling_mode='mean')", name)
        self.pooling_mode = check_pooling_mode(pooling_mode or settings.pooling_mode or "mean")
        self._trust_remote_code = trust_remote_code
        hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self.backbone = load_backbone(
            name,
            settings.subfolder,
            config_name=config_name,
            dtype=dtype,
            attn_implementation=attn_implementation,
            dropout=dropout,
            needs_pooler=POOLING_MODES[self.pooling_mode].uses_pooler,
            **hub,
        )
        use_fast_dropout(self.backbone)
        if shall_pack(self.backbone, packing, attn_implementation, name):
            use_packed_attention(self.backbone)
        # a tokenizer that is named apart lies at its own root, at its own revision
        self.tokenizer = (
            load_tokenizer(tokenizer_name, trust_remote_code=trust_remote_code)
            if tokenizer_name
            else load_tokenizer(name, settings.subfolder, **hub)
        )
        self.max_length = text_limit(max_length, settings.max_length, self.tokenizer, self.backbone)
        self.normalize_embeddings = bool(
            settings.normalize_embeddings if normalize_embeddings is None else normalize_embeddings
        )
        self.settings = settings
        self.name_or_path = name
        self.graphs = EncoderGraphs(cuda_graphs)
        # the layers, for those who shard models; accelerate shards the embeddings on its own account
        layers = self.backbone._no_split_modules or ()
        self._no_split_modules = [name for name in layers if "Embedding" not in name]
        if not POOLING_MODES[self.pooling_mode].uses_pooler and getattr(self.backbone, "pooler", None) is not None:
            # it stays in the checkpoint, where loaders look for it, but neither gradient nor decay may reach it
            self.backbone.pooler.requires_grad_(False)
        self.eval()
        try:
            self.to(device if device is not None else default_device())
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"device {device} cannot be used: {error}") from error
        self.graphs.check(self.device, is_packed=is_packed(self.backbone))

    @classmethod
    def from_pretrained(cls, model_name_or_path: str | Path, **options: Any) -> "SentenceBert":
        """The constructor, under transformers' name; takes its options."""
        return cls(model_name_or_path, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> "SentenceBert":
        self.graphs.clear()  # what moves the weights, or changes their type
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "SentenceBert":
        """torch's; the Trainer calls it at every step, and mostly there is nothing to change."""
        return self if all(module.training == mode for module in modules_of(self)) else super().train(mode)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """torch's, faster: the Trainer calls it at every step."""
        if not set_to_none:
            return super().zero_grad(set_to_none)
        for weight in weights_of(self):
            weight.grad = None

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return next(self.parameters()).device

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding."""
        return self.backbone.config.hidden_size

    def forward(self, input_ids: Tensor, lengths: Tensor, max_length: int | None = None) -> Tensor:
        """Embed a flat token batch.

        Args:
            input_ids: (T,) int64, text after text.
            lengths: (N,) int64, at least 1 each, summing to T.
            max_length: of the lengths, where it is known: asking a GPU for it waits for what the GPU is doing.

        Returns:
            (N, D) embeddings, float32 or float64.
        """
        if max_length is None:
            max_length = int(lengths.max())
        if not (is_packed(self.backbone) and self.graphs.serve(input_ids.device)):
            return self._embed_tokens(input_ids, lengths, max_length)
        settings = (self.pooling_mode, self.normalize_embeddings)
        return self.graphs.embed(self, self._embed_tokens, input_ids, lengths, max_length, settings=settings)

    def _embed_tokens(self, input_ids: Tensor, lengths: Tensor, max_length: int) -> Tensor:
        pooling = POOLING_MODES[self.pooling_mode]
        places = None
        if not is_packed(self.backbone) or wants_sorted(input_ids.device):
            input_ids, lengths, places = sort_by_length(input_ids, lengths)
        states = token_states(self.backbone, input_ids, lengths, layers=pooling.layers, max_length=max_length)  # (T, D)
        embeddings = pool(states, lengths, pooling.reduction)  # (N, D)
        if places is not None:
            embeddings = embeddings[places]
        if pooling.uses_pooler:
            pooler = self.backbone.get_submodule("pooler")  # takes the first of (N, L, D) states
            embeddings = pooler(embeddings[:, None].to(states.dtype)).to(embeddings.dtype)
        return F.normalize(embeddings, dim=-1) if self.normalize_embeddings else embeddings

    def prepare(self, texts: list[str], prompt: str | None = None) -> list[str]:
        """Turn texts into what the tokenizer is given: behind their prompt, and lower-cased where the model wants it.

        Args:
            texts: N texts.
            prompt: put in front of every text. None: the checkpoint's default prompt, where it has one.

        Returns:
            N texts.
        """
        if prompt is None and self.settings.default_prompt_name is not None:
            prompt = self.settings.prompts[self.settings.default_prompt_name]
        texts = [prompt + text for text in texts] if prompt else texts
        return [text.lower() for text in texts] if self.settings.lower_case else texts

    @torch.inference_mode()
    def encode_tokens(
        self,
        tokens: Tokens,
        *,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        dropout_seed: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """Embed tokenised texts, each on its own account: neighbours in a batch change nothing.

        Texts are taken by length, the longest first. What is on the model's device at a time does not depend on N.

        Args:
            tokens: of N texts.
            batch_size: texts of 128 tokens in a batch; it holds as many tokens of shorter or longer ones.
            show_progress_bar: whether to show progress on stderr.
            dropout_seed: leave dropout on, as in training, drawn with this seed. None: no dropout.
            share: (i, n) embeds every n-th batch alone, from the i-th on, counted from 0; the others' rows are zeros,
                and the sum over all i is what one call embeds.

        Returns:
            (N, D) float32 embeddings on the CPU, in the order given.
        """
        with tqdm(total=len(tokens), desc="Encoding", unit="text", disable=not show_progress_bar) as progress:
            if dropout_seed is None:
                return embed_tokens(self, tokens, batch_size, progress, share=share)
            before = random_state(self.device)
            try:
                return embed_tokens(self, tokens, batch_size, progress, dropout_seed, share)
            finally:  # what others draw next must not depend on this
                set_random_state(before, self.device)

    @property
    def token_share(self) -> float:
        """Share of a batch's tokens that texts may take; CUDA graphs fill the rest up."""
        return ROOM if is_packed(self.backbone) and self.graphs.serve(self.device) else 1.0

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 64,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
    ) -> NDArray[np.float32] | Tensor | list[Tensor]:
        """Embed texts; each distinct text is embedded once.

        Args:
            sentences: one text, or N texts.
            batch_size: texts of 128 tokens in a batch; it holds as many tokens of shorter or longer ones.
            show_progress_bar: whether to show progress. None: where somebody watches, for more than a batch.
            convert_to_numpy: give a numpy array; otherwise a list of tensors.
            convert_to_tensor: give one tensor on the model's device; goes before `convert_to_numpy`.
            normalize_embeddings: give embeddings unit length, whether or not the model does.
            truncate_dim: keep only the first dimensions, before this call's normalisation.
            prompt: put in front of every text. None: the checkpoint's default prompt, where it has one.

        Returns:
            (D,) float32 for one text, (N, D) for a list in its order, (0, D) for an empty list.

        Raises:
            TypeError: if something is not a text; the message says which.
            ValueError: if truncate_dim is not between 1 and D.
        """
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else check_texts(sentences)
        if truncate_dim is not None and not 1 <= truncate_dim <= self.embedding_dim:
            raise ValueError(f"truncate_dim must be between 1 and {self.embedding_dim}, got {truncate_dim}")
        embeddings = self._embed(texts, batch_size, show_progress_bar, prompt)[:, :truncate_dim]
        if normalize_embeddings:
            embeddings = F.normalize(embeddings, dim=-1)
        if convert_to_tensor:
            embeddings = embeddings.to(self.device)
        elif convert_to_numpy:
            return embeddings[0].numpy() if single else embeddings.numpy()
        if single:
            return embeddings[0]
        return embeddings if convert_to_tensor else list(embeddings)

    @torch.inference_mode()
    def _embed(self, texts: list[str], batch_size: int, show: bool | None = None, prompt: str | None = None) -> Tensor:
        """Embed each distinct text once; (N, D) float32 on the CPU."""
        row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        if show is None:
            show = len(row) > batch_size and is_watched()
        with tqdm(total=len(row), desc="Encoding", unit="text", disable=not show) as progress:
            out = embed_texts(self, list(row), batch_size, progress, prompt)
        return out if len(row) == len(texts) else out[[row[text] for text in texts]]

    def similarity(self, a: Sequence[str] | ArrayLike | Tensor, b: Sequence[str] | ArrayLike | Tensor) -> Tensor:
        """Cosine of every member of `a` with every member of `b`.

        Args:
            a: N texts, or (N, D) embeddings.
            b: M texts, or (M, D) embeddings.

        Returns:
            (N, M) float32 cosines.
        """
        return cosine_matrix(self._embeddings(a), self._embeddings(b))

    def predict(
        self, pairs: Iterable[tuple[str, str]], *, threshold: float | None = None, batch_size: int = 64
    ) -> Prediction:
        """Score pairs of texts and decide which match.

        Args:
            pairs: P pairs.
            threshold: a pair matches when its cosine is at or above it. None: the checkpoint's own.
            batch_size: as for `encode`.

        Returns:
            (P,) scores, (P,) decisions and, if the checkpoint stores how to get them, (P,) probabilities.

        Raises:
            ValueError: if there is no finite threshold, given or stored, or something is not a pair of texts.
        """
        threshold = self.settings.threshold(threshold)
        pairs = list(pairs)
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise ValueError("pairs must be pairs of texts, like [('one text', 'another text')]")
        embeddings = self._embed(check_texts([text for pair in pairs for text in pair]), batch_size)  # (2P, D)
        scores = pairwise_cosine(embeddings[0::2], embeddings[1::2]).numpy()
        decision = self.settings.decision
        probabilities = decision.calibration(scores) if decision and decision.calibration else None
        return Prediction(scores, scores.astype(np.float64) >= threshold, probabilities)

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write a complete sentence-transformers folder, with `cosent_config.json` beside it.

        Args:
            folder: made where it does not exist.
            state_dict: the weights, where they are sharded over ranks and this is what was gathered of them. None:
                the model's own.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        gathered = {name.removeprefix("backbone."): tensor for name, tensor in (state_dict or {}).items()}
        self.backbone.save_pretrained(folder, state_dict=gathered or None)
        self.tokenizer.save_pretrained(folder)
        self.save_settings(folder)
        for weights in Path(folder).glob("*.safetensors"):  # transformers makes them readable by their owner alone
            weights.chmod((Path(folder) / "config.json").stat().st_mode)

    def save_settings(self, folder: str | Path) -> None:
        """Write everything but the weights and the tokenizer into a checkpoint folder.

        Args:
            folder: what `save_pretrained` made, of this very model.
        """
        settings = replace(
            self.settings,
            pooling_mode=self.pooling_mode,
            max_length=self.max_length,
            normalize_embeddings=self.normalize_embeddings,
            subfolder="",
        )
        write_settings(folder, settings, self.embedding_dim)

    def load_weights(self, folder: str | Path) -> None:
        """Take the weights of a checkpoint of this very architecture.

        Args:
            folder: what `save_pretrained` wrote.

        Raises:
            CheckpointError: if they cannot be loaded.
        """
        saved = load_backbone(str(folder), dtype=self.backbone.dtype, trust_remote_code=self._trust_remote_code)
        if num_ranks() == 1:
            self.backbone.load_state_dict(saved.state_dict())
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        # it also fills weights that are sharded over ranks
        set_model_state_dict(self.backbone, saved.state_dict(), options=StateDictOptions(full_state_dict=True))

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass; the Trainer calls this, with the backbone's own options."""
        self.backbone.activation_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's token embeddings; the Trainer asks for them to add NEFTune's noise."""
        return self.backbone.get_input_embeddings()

    def _embeddings(self, texts_or_embeddings: Any) -> Tensor:
        if isinstance(texts_or_embeddings, Tensor):
            return texts_or_embeddings.float().cpu()
        if isinstance(texts_or_embeddings, str):
            raise TypeError("similarity takes lists of texts; put a single text in a list")
        if not len(texts_or_embeddings) or isinstance(texts_or_embeddings[0], str):
            return self._embed(check_texts(texts_or_embeddings), batch_size=64)
        return torch.as_tensor(np.asarray(texts_or_embeddings, dtype=np.float32))
