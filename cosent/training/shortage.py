"""What to say when memory runs out in training."""

from collections.abc import Sequence

from cosent.batch import TokenBatch
from cosent.training.arguments import CosentTrainingArguments
from cosent.training.gradient_cache import Piece


def describe_shortage(
    inputs: TokenBatch, pieces: Sequence[Piece], args: CosentTrainingArguments, *, has_classes: bool
) -> str:
    """Say at which batch memory ran out, and which arguments would reduce it.

    Args:
        inputs: the batch.
        pieces: the pieces in which it was embedded.
        args: the training arguments.
        has_classes: whether the batch is made of classes.
    """
    num_examples = len(inputs["text_ids"]) // inputs["num_columns"]
    most = max((len(piece.input_ids) for piece in pieces), default=0)
    at_a_time = f", {most:,} of them at a time" if len(pieces) > 1 else ""
    pieces_flag = f"micro_batch_tokens={max(most // 2, 1)}"
    if args.micro_batch_size:
        pieces_flag = f"micro_batch_size={max(args.micro_batch_size // 2, 1)}"
    batch_flag = f"per_device_train_batch_size={max(num_examples // 2, 1)}"
    if has_classes:
        batch_flag = f"classes_per_batch={max(args.classes_per_batch // 2, 2)}"
    return (
        f"out of memory at a batch of {num_examples:,} examples with {len(inputs['input_ids']):,} tokens{at_a_time}. "
        f"{pieces_flag} would embed it in smaller pieces, with the same result for one more forward pass; "
        f"{batch_flag} would make it smaller"
    )
