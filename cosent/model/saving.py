"""What a model writes to a folder and reads back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cosent.distributed import num_ranks
from cosent.model.backbone import load_backbone
from cosent.model.checkpoint import read_settings, write_settings
from cosent.model.fingerprint import LONG_TEXT, TEXTS, Fingerprint, fingerprint_of
from cosent.model.modes import embedding_mode
from cosent.model.pooling import PoolingMode
from cosent.model.saved_files import check_files
from cosent.model.settings import Settings
from cosent.model.tokens import forget_calls, tokenize
from cosent.progress import no_bars_of_transformers


class SavedModel(nn.Module):
    """The members of `SentenceBert` that write its folder and read weights."""

    backbone: PreTrainedModel
    tokenizer: Any
    settings: Settings
    pooling_mode: PoolingMode
    max_length: int
    normalize_embeddings: bool
    prepare: Any
    _embed_tokens: Any
    _trust_remote_code: bool

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device: ...

        @property
        def _backbone_dim(self) -> int: ...

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write a complete sentence-transformers folder, with `cosent_config.json` beside it.

        Args:
            folder: the folder; created if it does not exist.
            state_dict: the gathered weights, if the model's own are sharded over ranks. None: the model's own.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        gathered = {name.removeprefix("backbone."): tensor for name, tensor in (state_dict or {}).items()}
        with no_bars_of_transformers():
            self.backbone.save_pretrained(folder, state_dict=gathered or None)
        forget_calls(self.tokenizer)  # a file's digest must not depend on them
        self.tokenizer.save_pretrained(folder)
        self._write_settings(folder, None if state_dict else self._fingerprint())
        for weights in Path(folder).glob("*.safetensors"):  # transformers makes them readable only by their owner
            weights.chmod((Path(folder) / "config.json").stat().st_mode)

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
            CheckpointError: if the weights cannot be loaded, or have changed since they were saved.
        """
        files = read_settings(str(folder)).files
        if files is not None:
            check_files(str(folder), files)
        # some weights may be trained in float32
        dtype = max((weight.dtype for weight in self.backbone.parameters()), key=lambda dtype: dtype.itemsize)
        with no_bars_of_transformers():
            saved = load_backbone(str(folder), dtype=dtype, trust_remote_code=self._trust_remote_code)
        if num_ranks() == 1:
            self.backbone.load_state_dict(saved.state_dict())
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        # this function also fills weights that are sharded over ranks
        set_model_state_dict(self.backbone, saved.state_dict(), options=StateDictOptions(full_state_dict=True))
