"""SentenceBert: a backbone with its tokenizer and a pooling, which turns texts into embeddings.

Shapes: N texts, T tokens of all texts, concatenated, D dimensions, P pairs.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from cosent.errors import check_whole
from cosent.kernels.attention import wants_sorted
from cosent.kernels.dropout import random_state, set_random_state
from cosent.kernels.filling import ROOM
from cosent.kernels.graphs import CudaGraphs, EncoderGraphs
from cosent.kernels.groups import check_padding
from cosent.kernels.packing import Packing, is_packed, sort_by_length, token_states
from cosent.model.backbone import text_limit
from cosent.model.checkpoint import read_settings
from cosent.model.embedding import check_texts, embed_texts, embed_tokens
from cosent.model.fingerprint import check_fingerprint
from cosent.model.loading import check_options, load_parts, move
from cosent.model.matching import PairMatcher, Prediction
from cosent.model.peer import DEFAULT_PROMPTS, PeerMembers, move_if_elsewhere, read_prompt
from cosent.model.pooling import POOLING_MODES, PoolingMode, check_pooling_mode, pool
from cosent.model.quantization import Precision, check_precision, find_ranges, needs_ranges, quantize
from cosent.model.saving import SavedModel
from cosent.model.search import Hits, search
from cosent.model.summary import describe
from cosent.model.token_outputs import OutputValue, token_outputs
from cosent.model.tokens import Tokens, lower_cases
from cosent.progress import is_watched

__all__ = ["Prediction", "SentenceBert"]

logger = logging.getLogger(__name__)


class SentenceBert(PairMatcher, SavedModel, PeerMembers):
    """A sentence encoder: the cosine of two texts' embeddings says whether they match.

    Example::

        model = SentenceBert("models/all-MiniLM-L6-v2")  # a folder, or a hub id
        embeddings = model.encode(["Where is my parcel?", "My package is late"])  # (2, D) float32
        model.similarity(["Where is my parcel?"], ["My package is late", "I like tea"])  # (1, 2) cosines
        model.settings.decision = 0.7  # or choose the threshold on labelled pairs: `cosent calibrate`
        scores, matches, probabilities = model.predict([("Where is my parcel?", "My package is late")])
        model.save_pretrained("output/my-model")

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
        check_options(pooling_mode=pooling_mode, max_length=max_length, normalize_embeddings=normalize_embeddings)
        settings = read_settings(name, revision)
        if pooling_mode not in (None, settings.pooling_mode):
            settings.decision = None  # a threshold is valid only for the embeddings that it was chosen on
        if settings.decision is not None and settings.decision.ranges is not None:
            if normalize_embeddings not in (None, settings.normalize_embeddings):
                settings.decision = None  # its ranges are of embeddings of another length
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
        settings.prompts = DEFAULT_PROMPTS | settings.prompts
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
            stored = settings.pooling_mode, settings.max_length, settings.normalize_embeddings
            asked = pooling_mode, max_length, normalize_embeddings
            if all(own in (None, theirs) for own, theirs in zip(asked, stored, strict=True)):
                check_fingerprint(settings.fingerprint, self._fingerprint, name)

    @classmethod
    def from_pretrained(cls, model_name_or_path: str | Path, **options: Any) -> "SentenceBert":
        """Call the constructor; the name follows transformers."""
        return cls(model_name_or_path, **options)

    def __repr__(self) -> str:
        return describe(self)  # torch's tree of modules is that of `backbone`

    def _apply(self, fn: Any, recurse: bool = True) -> "SentenceBert":
        self.graphs.clear()  # recorded graphs are invalid once the weights move or change their type
        return super()._apply(fn, recurse)

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
        """Prepare texts for the tokenizer: prepend the prompt, and lower-case them unless the tokenizer does.

        Args:
            texts: N texts.
            prompt: prefix for every text. None: the checkpoint's default prompt, if any.

        Returns:
            N texts.
        """
        if prompt is None and self.settings.default_prompt_name is not None:
            prompt = self.settings.prompts[self.settings.default_prompt_name]
        texts = [prompt + text for text in texts] if prompt else texts
        shall_lower = self.settings.lower_case and not lower_cases(self.tokenizer)
        return [text.lower() for text in texts] if shall_lower else texts

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
        bar = {"desc": "Encoding", "unit": "text", "leave": False}
        with tqdm(total=len(tokens), disable=not show_progress_bar, **bar) as progress:
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
        prompt_name: str | None = None,
        precision: Precision | None = "float32",
        ranges: ArrayLike | None = None,
        calibration_texts: Sequence[str] | None = None,
        output_value: OutputValue = "sentence_embedding",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> NDArray[Any] | Tensor | list[Tensor] | list[dict[str, Tensor]] | dict[str, Tensor]:
        """Embed texts; each distinct text is embedded once.

        Args:
            sentences: one text, or N texts.
            batch_size: batch size in texts of 128 tokens; a batch of shorter or longer texts has as many tokens.
            show_progress_bar: whether to show progress. None: in a terminal, for more than one batch.
            convert_to_numpy: return a numpy array; otherwise a list of tensors.
            convert_to_tensor: return one tensor on the model's device; takes precedence over `convert_to_numpy`.
            normalize_embeddings: scale embeddings to unit length, even if the model does not.
            truncate_dim: keep only the first dimensions, before this call's normalisation. None: the model's.
            prompt: prefix for every text. None: that of `prompt_name`, else the checkpoint's default prompt, if any.
            prompt_name: the name of one of `prompts`.
            precision: "int8" or "uint8" stores a dimension in a byte, "binary" or "ubinary" in a bit.
            ranges: (2, D) the smallest and the largest value of each dimension, for "int8" and "uint8". None: those of
                `calibration_texts`, else those of the texts themselves.
            calibration_texts: typical texts to find the ranges on, 100 or more.
            output_value: "token_embeddings" gives each text's (L, D) last states; None gives dicts of everything.
            device: where to move the model first. None: nowhere.
            options: sentence-transformers' `task`, without effect, and its `pool` and `chunk_size`, which must be None.

        Returns:
            (D,) float32 for one text, (N, D) for a list, in its order, and (0, D) for an empty list. "binary" and
            "ubinary" have D / 8 columns, rounded up.

        Raises:
            TypeError: if an item is not a text, which the message names, or an option is unknown.
            ValueError: if an option is out of range.
        """
        check_whole("batch_size", batch_size, 1)
        check_options(normalize_embeddings=normalize_embeddings)
        prompt = read_prompt(prompt, prompt_name, self.prompts, options)
        precision = check_precision(precision)
        if device is not None:
            move_if_elsewhere(self, device)
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else check_texts(sentences)
        if truncate_dim is not None:
            check_whole("truncate_dim", truncate_dim, 1, self._backbone_dim)
        if output_value != "sentence_embedding":
            outputs = self._token_outputs(texts, output_value, batch_size, show_progress_bar, prompt, truncate_dim)
            return outputs[0] if single else outputs

        def embed(texts: list[str]) -> Tensor:
            embeddings = self._embed(texts, batch_size, show_progress_bar, prompt, truncate_dim)
            return F.normalize(embeddings, dim=-1) if normalize_embeddings else embeddings

        embeddings = embed(texts)
        if precision != "float32":
            if ranges is None and calibration_texts is not None and needs_ranges(precision):
                ranges = find_ranges(embed(check_texts(calibration_texts)))
            embeddings = torch.from_numpy(quantize(embeddings.numpy(), precision, ranges))
        if convert_to_tensor:
            embeddings = embeddings.to(self.device)
        elif convert_to_numpy:
            return embeddings[0].numpy() if single else embeddings.numpy()
        if single:
            return embeddings[0]
        return embeddings if convert_to_tensor else list(embeddings)

    @torch.inference_mode()
    def _embed(self, texts: list[str], batch_size: int, show: bool | None, *options: Any) -> Tensor:
        """Embed each distinct text once; (N, D) float32 on the CPU."""
        row, progress = _distinct(texts, batch_size, show)
        with progress:
            out = embed_texts(self, list(row), batch_size, progress, *options)
        return out if len(row) == len(texts) else out[[row[text] for text in texts]]

    @torch.inference_mode()
    def _token_outputs(
        self, texts: list[str], output_value: OutputValue, batch_size: int, show: bool | None, *options: Any
    ) -> list[Any]:
        """Compute the states of each distinct text's tokens once."""
        row, progress = _distinct(texts, batch_size, show)
        with progress:
            out = token_outputs(self, list(row), output_value, batch_size, progress, *options)
        return [out[row[text]] for text in texts]

    def search(
        self,
        queries: str | Sequence[str] | ArrayLike | Tensor,
        corpus: Sequence[str] | ArrayLike | Tensor,
        **options: Any,
    ) -> Hits:
        """Find the texts of a corpus with the highest cosines to each query.

        Args:
            queries: one text, Q texts, or (Q, D) embeddings.
            corpus: N texts, or (N, D) embeddings.
            options: `top_k` and the other arguments of `cosent.model.search.search`, which documents them.

        Returns:
            The positions in the corpus and the cosines of the best hits, (Q, k) each.
        """
        return search(self, queries, corpus, **options)


def _distinct(texts: list[str], batch_size: int, show: bool | None) -> tuple[dict[str, int], tqdm]:
    """Number the distinct texts, and make the progress bar that counts them."""
    row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    if show is None:
        show = len(row) > batch_size and is_watched()
    return row, tqdm(total=len(row), desc="Encoding", unit="text", disable=not show)
