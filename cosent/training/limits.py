"""What the Trainer's arguments of ours may be; checked where flags are, before anything slow is imported."""

from typing import Protocol

from cosent.errors import UserError


class LimitedArguments(Protocol):
    """The arguments that are checked, whatever class holds them."""

    warmup_ratio: float | None
    warmup_steps: float
    classes_per_batch: int
    samples_per_class: int
    micro_batch_tokens: int | None
    micro_batch_size: int | None
    eval_strategy: str
    early_stopping_patience: int | None


def check_limits(args: LimitedArguments) -> None:
    """Refuse values that mean nothing, alone or together.

    Raises:
        UserError: if there is one.
    """
    if args.warmup_ratio is not None and (not 0 <= args.warmup_ratio < 1 or args.warmup_steps):
        raise UserError("warmup_ratio must be at least 0 and below 1, and takes the place of warmup_steps")
    if args.classes_per_batch < 2 or args.samples_per_class < 2:
        raise UserError("classes_per_batch and samples_per_class must be at least 2")
    for name, size in (("micro_batch_tokens", args.micro_batch_tokens), ("micro_batch_size", args.micro_batch_size)):
        if size is not None and size < 1:
            raise UserError(f"{name} must be at least 1, got {size}")
    if args.micro_batch_tokens and args.micro_batch_size:
        raise UserError("micro_batch_tokens and micro_batch_size say the same in two ways: give one of them")
    if args.eval_strategy == "no" and args.early_stopping_patience is not None:
        raise UserError("early_stopping_patience needs evaluations: not eval_strategy='no'")
