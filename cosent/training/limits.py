"""Checks of the Trainer's arguments, which run with the flags before anything slow is imported."""

import math
from typing import Any, NamedTuple, Protocol

from cosent.errors import UserError
from cosent.training.packages import check_packages


class Range(NamedTuple):
    """A range of allowed numbers; `is_open` excludes the least."""

    least: float
    most: float = math.inf
    is_open: bool = False

    def __contains__(self, value: Any) -> bool:
        inside = self.least < value if self.is_open else self.least <= value
        return inside and value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        least = f"{'above' if self.is_open else 'at least'} {self.least:.10g}"
        return least if self.most == math.inf else f"{least} and at most {self.most:.10g}"


_SEED = Range(0, 2**32 - 1)  # numpy's range
_COUNT = Range(1)
_SHARE = Range(0, 1)
_POSITIVE = Range(0, is_open=True)
_NOT_NEGATIVE = Range(0)

# transformers checks few of these itself; other wrong values would fail during training or train something else.
RANGES = {
    "seed": _SEED,
    "data_seed": _SEED,
    "learning_rate": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": Range(0, 1 - 1e-12),
    "adam_beta2": Range(0, 1 - 1e-12),
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "num_train_epochs": _POSITIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "eval_delay": _NOT_NEGATIVE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "early_stopping_patience": _COUNT,
    "label_smoothing_factor": _SHARE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "ddp_timeout": _COUNT,
    "neftune_noise_alpha": _NOT_NEGATIVE,
}


class LimitedArguments(Protocol):
    """The arguments to check, whichever class holds them."""

    warmup_ratio: float | None
    warmup_steps: float
    classes_per_batch: int
    samples_per_class: int
    micro_batch_tokens: int | None
    micro_batch_size: int | None
    eval_strategy: str
    early_stopping_patience: int | None


def check_limits(args: LimitedArguments) -> None:
    """Refuse invalid values and combinations.

    Raises:
        UserError: if an argument or a combination is invalid, or needs a missing package.
    """
    for name, allowed in RANGES.items():
        value = getattr(args, name, None)
        if isinstance(value, int | float) and value not in allowed:
            raise UserError(f"{name}={value} is out of range: it must be {allowed}")
    check_packages(args)
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
