"""Errors that the user can fix; scripts print them on one line, without a traceback."""


class UserError(ValueError):
    """An input is wrong; the message says what, where, and how to fix it."""


class DataError(UserError):
    """A data file is missing, empty, or has unusable rows."""


class CheckpointError(UserError):
    """A model folder or hub id cannot be loaded as a sentence encoder."""
