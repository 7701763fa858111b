"""Errors that the user can fix; scripts print them on one line, without a traceback."""

from numbers import Integral


class UserError(ValueError):
    """An input is wrong; the message says what, where, and how to fix it."""


class DataError(UserError):
    """A data file is missing, empty, or has unusable rows."""


class CheckpointError(UserError):
    """A model folder or hub id cannot be loaded as a sentence encoder."""


def check_whole(name: str, value: object, least: int | None = None, most: int | None = None) -> None:
    """Refuse an option that is no whole number within limits.

    Args:
        name: the option's name, for messages.
        value: its value.
        least: the smallest value that is allowed. None: any.
        most: the largest, where there is a smallest. None: any.

    Raises:
        UserError: if it is of another type or out of range.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number, got {value!r:.80}")
    if least is not None and not least <= int(value) <= (int(value) if most is None else most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise UserError(f"{name} must be {limits}, got {value}")
