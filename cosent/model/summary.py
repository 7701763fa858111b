"""A model in a few lines, for a notebook or a log."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosent.model.encoder import SentenceBert


def describe(model: "SentenceBert") -> str:
    """Describe a model: its backbone, how texts become embeddings, and from which cosine on two of them match.

    Args:
        model: the model.
    """
    parameters = sum(weight.numel() for weight in model.parameters())
    pooling = f"{model.pooling_mode}, then unit length" if model.normalize_embeddings else model.pooling_mode
    dimensions = f"{model.embedding_dim}"
    if model.truncate_dim is not None:
        dimensions += f", the first of {model.backbone.config.hidden_size}"
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    lines = {
        "backbone": f"{type(model.backbone).__name__}, {parameters:,} parameters in {dtype} on {model.device}",
        "pooling": pooling,
        "max length": f"{model.max_length} tokens",
        "dimensions": dimensions,
        "decision": model.settings.decision or "none: set model.settings.decision, or use `cosent calibrate`",
    }
    shown = "".join(f"\n  {name + ':':<12}{value}" for name, value in lines.items())
    return f"SentenceBert({model.name_or_path!r}){shown}"
