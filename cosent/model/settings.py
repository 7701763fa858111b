"""The settings that a checkpoint stores besides its weights."""

import math
from dataclasses import dataclass, field
from typing import Any

from cosent.errors import UserError
from cosent.model.decision import Decision
from cosent.model.fingerprint import Fingerprint
from cosent.model.pooling import PoolingMode


@dataclass
class Settings:
    """The settings that a checkpoint stores besides its weights; None if it stores none.

    Attributes:
        pooling_mode: how token states become an embedding.
        max_length: maximum number of tokens in a text.
        normalize_embeddings: whether embeddings have unit length.
        truncate_dim: number of first dimensions that `encode` keeps.
        lower_case: whether texts are lower-cased before tokenisation.
        prompts: named prefixes for texts.
        default_prompt_name: the prompt that `encode` uses by default.
        similarity_fn_name: how sentence-transformers compares embeddings; cosent uses cosines.
        subfolder: the backbone's folder within the checkpoint.
        backbone_dim: the width of the backbone's states, if the pooling stores it.
        tokenizer_options: additional options for the tokenizer.
        config_options: additional options for the backbone's configuration.
        dtype: type of the weights, if it differs from the stored type.
        loss: name and options of the loss that trained the model.
        decision: the stored threshold and calibration.
        base_model: the folder or hub id of the model that was fine-tuned.
        fingerprint: embeddings of a few texts at the time of saving; see `cosent.model.fingerprint`.
    """

    pooling_mode: PoolingMode | None = None
    max_length: int | None = None
    normalize_embeddings: bool | None = None
    truncate_dim: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    subfolder: str = ""
    backbone_dim: int | None = None
    tokenizer_options: dict[str, Any] = field(default_factory=dict)
    config_options: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    loss: dict[str, Any] | None = None
    decision: Decision | None = None
    base_model: str | None = None
    fingerprint: Fingerprint | None = None

    def threshold(self, given: float | None = None) -> float:
        """Return the lowest cosine at which two texts match.

        Args:
            given: replaces the stored threshold.

        Raises:
            UserError: if a threshold is neither given nor stored, or it is not finite.
        """
        if given is not None:
            threshold = float(given)
        elif self.decision is not None:
            threshold = self.decision.threshold
        else:
            raise UserError("this model stores no threshold: give one (threshold=0.7, say), or use `cosent calibrate`")
        if not math.isfinite(threshold):
            raise UserError(f"the threshold must be a finite number, got {threshold}")
        return threshold
