"""The encoders that the throughput benchmarks run."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

BUNDLED = Path(__file__).parent.parent / "models" / "all-MiniLM-L6-v2"

# Random weights take as long as trained ones, and no download.
SHAPES: dict[str, dict[str, int]] = {
    "minilm-l6": {},  # the bundled backbone itself
    "minilm-l6-random": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "macbert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    # for the tests of the benchmarks: it takes next to no time
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}
VOCABULARY = 21128  # of Chinese BERT


def make_backbone(shape: str, texts: list[str], folder: Path, *, bundled: bool = True) -> str:
    """Make a plain Hugging Face folder of an encoder, and say where it is.

    Args:
        shape: one of `SHAPES`, or the name or path of a model, which is left as it is.
        texts: what it shall read; a vocabulary is learnt from them where they are Chinese.
        folder: where to put it.
        bundled: take the bundled backbone's tokenizer for other texts. Otherwise their vocabulary is learnt, too, and
            nothing but "minilm-l6" needs the bundled backbone.
    """
    if shape not in SHAPES:
        return shape
    if shape == "minilm-l6":
        return str(BUNDLED)
    if not bundled or any("\u4e00" <= character <= "\u9fff" for text in texts[:100] for character in text):
        tokenizer = BertTokenizer(model_max_length=512).train_new_from_iterator(
            texts, vocab_size=VOCABULARY, show_progress=False
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=max(VOCABULARY, len(tokenizer)), **SHAPES[shape])).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def encoder_parameters(path: str) -> int:
    """Parameters that work on each token: all but the embeddings and the pooler."""
    return working_parameters(AutoModel.from_pretrained(path))


def working_parameters(backbone: nn.Module) -> int:
    """The same of a backbone that is loaded already."""
    names = ("embeddings.", "pooler.")
    return sum(p.numel() for name, p in backbone.named_parameters() if not name.startswith(names))
