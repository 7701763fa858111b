"""The settings that a checkpoint stores besides its weights."""

import math
from dataclasses import dataclass, field
from typing import Any

from cosent.errors import UserError
from cosent.model.decision import Decision, decided_by_hand
from cosent.model.fingerprint import Fingerprint
from cosent.model.pooling import PoolingMode
from cosent.model.saved_files import Files


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
        decision: the stored threshold and calibration. Setting it to a number, such as 0.7, makes a decision of it.
        base_model: the folder or hub id of the model that was fine-tuned.
        fingerprint: embeddings of a few texts at the time of saving; see `cosent.model.fingerprint`.
        files: digests of the files that the embeddings depend on; see `cosent.model.saved_files`.
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
    files: Files | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "decision" and value is not None and not isinstance(value, Decision):
            value = decided_by_hand(value)
        super().__setattr__(name, value)

    @property
    def decision_fits(self) -> bool:
        """Whether the stored decision, if any, is for as many dimensions as `truncate_dim` keeps."""
        for_dim = self.decision.truncate_dim if self.decision is not None else None
        return for_dim is None or self.truncate_dim in (None, for_dim)

    def threshold(self, given: float | None = None) -> float:
        """Return the lowest cosine at which two texts match.

        Args:
            given: replaces the stored threshold.

        Raises:
            UserError: if a threshold is neither given nor stored, it is not finite, or the stored one is for another
                `truncate_dim`.
        """
        if given is not None:
            try:
                threshold = float(given)
            except (OverflowError, TypeError, ValueError):
                raise UserError(f"the threshold must be a finite number, got {given!r:.80}") from None
        elif self.decision is not None and not self.decision_fits:
            raise UserError(
                f"the stored threshold is for embeddings of {self.decision.truncate_dim} dimensions, but the model "
                f"keeps truncate_dim={self.truncate_dim}: give a threshold, calibrate again, or set "
                f"model.truncate_dim = {self.decision.truncate_dim}"
            )
        elif self.decision is not None:
            threshold = self.decision.threshold
        else:
            raise UserError("this model stores no threshold: give one (threshold=0.7, say), or use `cosent calibrate`")
        if not math.isfinite(threshold):
            raise UserError(f"the threshold must be a finite number, got {threshold}")
        return threshold
