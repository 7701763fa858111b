"""SentenceBert: a backbone with its tokenizer and a pooling, which turns texts into embeddings.

Shapes: N texts, T tokens of all texts, concatenated, D dimensions, P pairs.
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
from cosent.kernels.attention import wants_sorted
from cosent.kernels.dropout import random_state, set_random_state
from cosent.kernels.filling import ROOM
from cosent.kernels.graphs import CudaGraphs, EncoderGraphs
from cosent.kernels.groups import check_padding
from cosent.kernels.packing import Packing, is_packed, sort_by_length, token_states
from cosent.kernels.walk import modules_of, weights_of
from cosent.model.backbone import load_backbone, text_limit
from cosent.model.checkpoint import read_settings, write_settings
from cosent.model.embedding import check_texts, embed_texts, embed_tokens
from cosent.model.fingerprint import LONG_TEXT, TEXTS, Fingerprint, check_fingerprint, fingerprint_of
from cosent.model.loading import load_parts, move
from cosent.model.modes import embedding_mode
from cosent.model.pooling import POOLING_MODES, PoolingMode, check_pooling_mode, pool
from cosent.model.tokens import Tokens, tokenize
from cosent.progress import is_watched
from cosent.similarity import cosine_matrix, pairwise_cosine

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """A model's decisions on P pairs.

    Attributes:
        scores: (P,) float32 cosines.
        matches: (P,) booleans, whether the score is at or above the threshold.
        probabilities: (P,) float64 probabilities of a match; None if the checkpoint stores no calibration.
    """

    scores: NDArray[np.float32]
    matches: NDArray[np.bool_]
    probabilities: NDArray[np.float64] | None = None


class SentenceBert(nn.Module):
    """A sentence encoder: the cosine of two texts' embeddings says whether they match.

    Args:
        model_name_or_path: a hub id, or a plain Hugging Face, sentence-transformers or cosent folder.
        pooling_mode: "mean", "cls", "max", "last", "pooler", "first_last_avg" (the mean of the first and the last
            layer) or "last_avg" (an alias of "mean"). None: the checkpoint's, else "mean".
        max_length: maximum number of tokens in a text, special tokens included. None: the checkpoint's, else the
            limit of the tokenizer and the backbone.
        normalize_embeddings: whether to scale embeddings to unit length. None: the checkpoint's, else False.
        trust_remote_code: whether code from the checkpoint may run.
        revision: revision of the hub repository.
        dtype: type of the weights, such as "float32". None: as stored in the checkpoint.
        device: where to put the model. None: an accelerator if there is one.
        config_name: folder or hub id of another configuration.
        tokenizer_name: folder or hub id of another tokenizer.
        attn_implementation: name of one of transformers' attention implementations.
        dropout: rate of hidden and attention dropout in training, from 0 to below 1. None: the checkpoint's.
        packing: whether to run texts through the backbone without padding. "auto": if its architecture is known to
            allow it and no `attn_implementation` is given. "on": always, or raise an error. "off": pad texts in
            groups of similar length. Embeddings are the same.
        cuda_graphs: whether to record the encoder's work on a GPU, for each of a few batch sizes, and replay it in
            `encode`, in evaluation and in training by `CosentTrainer`. "auto": if possible. "on": always, or raise
            an error. "off": never. Embeddings are the same.

    Attributes:
        pooling_mode: the pooling mode in use. Like `max_length` and `normalize_embeddings`, it is saved in checkpoints.
        name_or_path: the hub id or folder that was loaded.
        settings: the checkpoint's other settings: prompts, the loss that trained it, the stored decision threshold.

    Raises:
        CheckpointError: if the model cannot be loaded or lacks weights of its encoder.
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
            settings.decision = None  # a threshold is valid only for the embeddings that it was chosen on
        if pooling_mode is None and settings.pooling_mode is None:
            logger.info("%s does not say how to pool its tokens: taking their mean (pooling_mode='mean')", name)
        self.pooling_mode = check_pooling_mode(pooling_mode or settings.pooling_mode or "mean")
        self._trust_remote_code = trust_remote_code
        self.backbone, self.tokenizer = load_parts(
            name,
            settings,
            self.pooling_mode,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            config_name=config_name,
            tokenizer_name=tokenizer_name,
            attn_implementation=attn_implementation,
            dropout=dropout,
            packing=packing,
        )
        self.max_length = text_limit(max_length, settings.max_length, self.tokenizer, self.backbone)
        self.normalize_embeddings = bool(
            settings.normalize_embeddings if normalize_embeddings is None else normalize_embeddings
        )
        self.settings = settings
        self.name_or_path = name
        self.graphs = EncoderGraphs(cuda_graphs)
        # FSDP shards the model by these layers; accelerate shards the embeddings by itself
        layers = self.backbone._no_split_modules or ()
        self._no_split_modules = [name for name in layers if "Embedding" not in name]
        self.eval()
        move(self, device)
        self.graphs.check(self.device, is_packed=is_packed(self.backbone))
        if not is_packed(self.backbone):
            check_padding(self.backbone)
        if settings.fingerprint is not None and config_name is None and tokenizer_name is None:
            used = self.pooling_mode, self.max_length, self.normalize_embeddings
            if used == (settings.pooling_mode, settings.max_length, settings.normalize_embeddings):
                check_fingerprint(settings.fingerprint, self._fingerprint, name)

    @classmethod
    def from_pretrained(cls, model_name_or_path: str | Path, **options: Any) -> "SentenceBert":
        """Call the constructor; the name follows transformers."""
        return cls(model_name_or_path, **options)

    def _apply(self, fn: Any, recurse: bool = True) -> "SentenceBert":
        self.graphs.clear()  # recorded graphs are invalid once the weights move or change their type
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> "SentenceBert":
        """Override torch's method for speed: the Trainer calls it at every step, usually with nothing to change."""
        return self if all(module.training == mode for module in modules_of(self)) else super().train(mode)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Override torch's method for speed: the Trainer calls it at every step."""
        if not set_to_none:
            return super().zero_grad(set_to_none)
        for weight in weights_of(self):
            weight.grad = None

    @property
    def device(self) -> torch.device:
        """The current device of the weights."""
        return next(self.parameters()).device

    @property
    def embedding_dim(self) -> int:
        """D, the width of an embedding from `encode`; `forward` does not truncate."""
        return min(self.settings.truncate_dim or self._backbone_dim, self._backbone_dim)

    @property
    def _backbone_dim(self) -> int:
        return self.backbone.config.hidden_size

    def forward(self, input_ids: Tensor, lengths: Tensor, max_length: int | None = None) -> Tensor:
        """Embed a flat token batch.

        Args:
            input_ids: (T,) int64, text after text.
            lengths: (N,) int64, at least 1 each, summing to T.
            max_length: the largest length, if known: reading it from a GPU waits for the GPU's work to finish.

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
        """Prepare texts for the tokenizer: prepend the prompt, and lower-case them if the model requires it.

        Args:
            texts: N texts.
            prompt: prefix for every text. None: the checkpoint's default prompt, if any.

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
        """Embed tokenised texts; an embedding does not depend on the other texts of its batch.

        Texts are processed by length, the longest first. Memory on the model's device does not grow with N.

        Args:
            tokens: the tokens of N texts.
            batch_size: batch size in texts of 128 tokens; a batch of shorter or longer texts has as many tokens.
            show_progress_bar: whether to show progress on stderr.
            dropout_seed: keeps dropout on, as in training, and seeds it. None: no dropout.
            share: (i, n) embeds only every n-th batch, starting with batch i (from 0). All other rows are zeros, so
                the results for all i sum to the result of one call for all texts.

        Returns:
            (N, D) float32 embeddings on the CPU, in the order given.
        """
        with tqdm(total=len(tokens), desc="Encoding", unit="text", disable=not show_progress_bar) as progress:
            if dropout_seed is None:
                return embed_tokens(self, tokens, batch_size, progress, share=share)
            before = random_state(self.device)
            try:
                return embed_tokens(self, tokens, batch_size, progress, dropout_seed, share)
            finally:  # later random numbers must not depend on this call
                set_random_state(before, self.device)

    @property
    def token_share(self) -> float:
        """The share of a batch's tokens that texts may take; CUDA graphs fill the rest."""
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
            batch_size: batch size in texts of 128 tokens; a batch of shorter or longer texts has as many tokens.
            show_progress_bar: whether to show progress. None: in a terminal, for more than one batch.
            convert_to_numpy: return a numpy array; otherwise a list of tensors.
            convert_to_tensor: return one tensor on the model's device; takes precedence over `convert_to_numpy`.
            normalize_embeddings: scale embeddings to unit length, even if the model does not.
            truncate_dim: keep only the first dimensions, before this call's normalisation.
            prompt: prefix for every text. None: the checkpoint's default prompt, if any.

        Returns:
            (D,) float32 for one text, (N, D) for a list, in its order, and (0, D) for an empty list.

        Raises:
            TypeError: if an item is not a text; the message names it.
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
        """Compute the cosine of every item of `a` with every item of `b`.

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
            threshold: a pair matches if its cosine is at or above this value. None: the checkpoint's threshold.
            batch_size: batch size in texts of 128 tokens.

        Returns:
            (P,) scores, (P,) decisions and, if the checkpoint stores a calibration, (P,) probabilities.

        Raises:
            ValueError: if no finite threshold is given or stored, or an item is not a pair of texts.
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
            folder: the folder; created if it does not exist.
            state_dict: the gathered weights, if the model's own are sharded over ranks. None: the model's own.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        gathered = {name.removeprefix("backbone."): tensor for name, tensor in (state_dict or {}).items()}
        self.backbone.save_pretrained(folder, state_dict=gathered or None)
        self.tokenizer.save_pretrained(folder)
        self._write_settings(folder, None if state_dict else self._fingerprint())
        for weights in Path(folder).glob("*.safetensors"):  # transformers makes them readable only by their owner
            weights.chmod((Path(folder) / "config.json").stat().st_mode)

    def save_settings(self, folder: str | Path) -> None:
        """Write everything but the weights and the tokenizer into a checkpoint folder.

        Args:
            folder: a folder that `save_pretrained` wrote for this model.
        """
        self._write_settings(folder, self._fingerprint())

    def _write_settings(self, folder: str | Path, fingerprint: Fingerprint | None) -> None:
        settings = replace(
            self.settings,
            pooling_mode=self.pooling_mode,
            max_length=self.max_length,
            normalize_embeddings=self.normalize_embeddings,
            subfolder="",
            fingerprint=fingerprint,
        )
        write_settings(folder, settings, self._backbone_dim)

    @torch.inference_mode()
    def _fingerprint(self) -> Fingerprint:
        """Compute the fingerprint of this model, without recording CUDA graphs."""
        tokens = tokenize(self.tokenizer, self.prepare([*TEXTS, LONG_TEXT]), self.max_length)
        short = tokens.lengths[: len(TEXTS)]
        input_ids, lengths = (
            torch.from_numpy(array).long().to(self.device) for array in (tokens.input_ids[: short.sum()], short)
        )
        with embedding_mode(self):
            embeddings = self._embed_tokens(input_ids, lengths, int(short.max()))
        return fingerprint_of(tokens, embeddings.float().cpu(), self.backbone.dtype)

    def load_weights(self, folder: str | Path) -> None:
        """Load the weights of a checkpoint with the same architecture.

        Args:
            folder: a folder that `save_pretrained` wrote.

        Raises:
            CheckpointError: if the weights cannot be loaded.
        """
        # some weights may be trained in float32
        dtype = max((weight.dtype for weight in self.backbone.parameters()), key=lambda dtype: dtype.itemsize)
        saved = load_backbone(str(folder), dtype=dtype, trust_remote_code=self._trust_remote_code)
        if num_ranks() == 1:
            self.backbone.load_state_dict(saved.state_dict())
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        # this function also fills weights that are sharded over ranks
        set_model_state_dict(self.backbone, saved.state_dict(), options=StateDictOptions(full_state_dict=True))

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass; the Trainer calls this with the backbone's options."""
        self.backbone.activation_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's token embeddings; the Trainer needs them to add NEFTune's noise."""
        return self.backbone.get_input_embeddings()

    def _embeddings(self, texts_or_embeddings: Any) -> Tensor:
        if isinstance(texts_or_embeddings, Tensor):
            return texts_or_embeddings.float().cpu()
        if isinstance(texts_or_embeddings, str):
            raise TypeError("similarity takes lists of texts; put a single text in a list")
        if not len(texts_or_embeddings) or isinstance(texts_or_embeddings[0], str):
            return self._embed(check_texts(texts_or_embeddings), batch_size=64)
        return torch.as_tensor(np.asarray(texts_or_embeddings, dtype=np.float32))
