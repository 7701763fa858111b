"""Build a small BERT with its own vocabulary from scratch, for tests or for trying out a language.

    cosent build-backbone --corpus questions.tsv --output_dir models/tiny-bert

The weights are random until you train them. Each Chinese character is a token; other scripts are cut into word pieces
learnt from the corpus.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cosent.cli.parsing import FlagParser
from cosent.cli.running import hush_libraries
from cosent.errors import DataError, UserError

_WRITTEN = ("config.json", "model.safetensors", "modules.json", "tokenizer.json", "tokenizer_config.json")


@dataclass
class BackboneArguments:
    """The corpus of the vocabulary and the size of the encoder."""

    corpus: list[str] = field(
        metadata={"help": "UTF-8 text files. Every tab-separated field that is not a number is a text."}
    )
    output_dir: str = field(metadata={"help": "Folder for the backbone."})
    vocab_size: int = field(default=8000, metadata={"help": "Maximum size of the vocabulary."})
    hidden_size: int = field(default=256, metadata={"help": "Width of a token's state."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Number of layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads per layer."})
    intermediate_size: int = field(default=1024, metadata={"help": "Width of the feed-forward layers."})
    max_position_embeddings: int = field(default=512, metadata={"help": "Maximum number of tokens in a text."})
    seed: int = field(default=42, metadata={"help": "Seed of the random weights."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Overwrite a model in the folder."})

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"--hidden_size {self.hidden_size} is no multiple of --num_attention_heads")


def main(arguments: Sequence[str]) -> None:
    """Learn the vocabulary, initialise the weights, and save both."""
    parser = FlagParser("build-backbone", [BackboneArguments], description="Build a small BERT, untrained.")
    (args,) = parser.fill_from(arguments)
    for path in args.corpus:
        if not Path(path).is_file():
            raise DataError(f"{path} does not exist")
    held = [name for name in _WRITTEN if Path(args.output_dir, name).exists()]
    if held and not args.overwrite_output_dir:
        raise UserError(
            f"--output_dir {args.output_dir} holds {', '.join(held)}, which would be overwritten: give another folder, "
            "or --overwrite_output_dir True"
        )
    hush_libraries()
    build(args)


def build(args: BackboneArguments) -> None:
    """Learn the vocabulary, initialise the weights, and save both."""
    import transformers
    from transformers import BertConfig, BertModel, BertTokenizer

    transformers.set_seed(args.seed)
    tokenizer = BertTokenizer(model_max_length=args.max_position_embeddings).train_new_from_iterator(
        texts(args.corpus), vocab_size=args.vocab_size
    )
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise DataError(f"{', '.join(args.corpus)} holds no text")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        intermediate_size=args.intermediate_size,
        max_position_embeddings=args.max_position_embeddings,
        pad_token_id=tokenizer.pad_token_id,
    )
    backbone = BertModel(config)
    backbone.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    print(f"{args.output_dir}: {len(tokenizer):,} tokens, {backbone.num_parameters():,} parameters, untrained")


def texts(paths: Sequence[str]) -> Iterator[str]:
    """Yield the texts of the corpus files."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            try:
                for line in file:
                    yield from (text for text in line.rstrip("\n").split("\t") if not is_number(text))
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is no UTF-8 text: {error}") from error


def is_number(text: str) -> bool:
    """Tell whether a field is a label rather than a text."""
    try:
        float(text)
    except ValueError:
        return False
    return True
