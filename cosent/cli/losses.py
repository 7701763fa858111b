"""Flags of losses, read from the losses themselves: their names, and the options that each of them has."""

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
    LossName = Literal[tuple(LOSSES)]  # of which a type checker could make nothing


def formats_of(name: str) -> tuple[DataFormat, ...]:
    """The formats of data that a loss of `LOSSES` learns from."""
    module, _, class_name = LOSSES[name].partition(":")
    formats: tuple[DataFormat, ...] = attribute(module, class_name, "data_formats")
    return formats


_OPTIONS = {name: parameters(*path.split(":")) for name, path in LOSSES.items()}

_NAMES = ", ".join(f"{name} ({', '.join(formats_of(name))})" for name in LOSSES)


@dataclass
class LossChoice:
    """What to minimise."""

    _argument_group_name: ClassVar[str] = "loss"
    loss: LossName = field(
        default="cosent",
        metadata={"help": f"What to minimise, with the data that it learns from: {_NAMES}. docs/training.md has more."},
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
        """The loss itself."""
        given = {option.name: getattr(self, option.name) for option in _OPTIONS[self.loss]}
        try:
            loss: Loss = loss_class(self.loss)(**{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(str(error)) from error
        return loss


def _flags() -> list[tuple[str, object, object]]:
    """The fields of all losses' options; losses share a flag where they share the name of an option."""
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
