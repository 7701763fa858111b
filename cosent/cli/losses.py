"""The flags of losses: their names and options, read from the source of the losses."""

from collections import defaultdict
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from cosent.cli.sources import Parameter, attribute, parameters
from cosent.data.formats import DataFormat
from cosent.errors import UserError
from cosent.losses import LOSSES, loss_class

if TYPE_CHECKING:
    from cosent.losses import Loss

    LossName = str
else:
    LossName = Literal[tuple(LOSSES)]  # a type checker cannot evaluate this


def formats_of(name: str) -> tuple[DataFormat, ...]:
    """Return the data formats that a loss of `LOSSES` learns from."""
    module, _, class_name = LOSSES[name].partition(":")
    formats: tuple[DataFormat, ...] = attribute(module, class_name, "data_formats")
    return formats


_OPTIONS = {name: parameters(*path.split(":")) for name, path in LOSSES.items()}


def _learns_from(name: str) -> str:
    """List what a loss learns from: one of triplets also takes the pairs that match, as anchors with a positive."""
    formats = formats_of(name)
    takes_pairs = "triplets" in formats and "pairs" not in formats
    return ", ".join([*formats, *(["labelled pairs"] if takes_pairs else [])])


_NAMES = ", ".join(f"{name} ({_learns_from(name)})" for name in LOSSES)


@dataclass
class LossChoice:
    """Which loss to minimise."""

    _argument_group_name: ClassVar[str] = "loss"
    loss: LossName = field(
        default="cosent",
        metadata={"help": f"The loss, with the data that it learns from: {_NAMES}. docs/training.md explains them."},
    )

    def __post_init__(self) -> None:
        own = {option.name for option in _OPTIONS[self.loss]}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in ("loss", *own) and value != option.default:
                raise UserError(f"--{option.name} means nothing to --loss {self.loss}")
            if option.name == "scale" and value is not None and not value > 0:
                raise UserError(f"--scale must be above 0, got {value}")

    def build(self) -> "Loss":
        """Build the loss."""
        given = {option.name: getattr(self, option.name) for option in _OPTIONS[self.loss]}
        try:
            loss: Loss = loss_class(self.loss)(**{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(str(error)) from error
        return loss


def _flags() -> list[tuple[str, object, object]]:
    """Make the fields of all losses' options; options with the same name share a flag."""
    found: dict[str, dict[str, Parameter]] = defaultdict(dict)
    for loss, options in _OPTIONS.items():
        for option in options:
            found[option.name][loss] = option
    flags: list[tuple[str, object, object]] = []
    for name, by_loss in found.items():
        first, *others = by_loss.values()
        text = f"{', '.join(by_loss)}: {first.help}"
        if all(option.default == first.default for option in others):
            flags.append((name, first.kind, field(default=first.default, metadata={"help": text})))
        else:
            defaults = ", ".join(f"{option.default} for {loss}" for loss, option in by_loss.items())
            flags.append(
                (name, first.kind | None, field(default=None, metadata={"help": f"{text} Default: {defaults}."}))
            )
    return flags


if TYPE_CHECKING:
    LossArguments = LossChoice
else:
    LossArguments = make_dataclass("LossArguments", _flags(), bases=(LossChoice,))
