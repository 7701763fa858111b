"""Errors that a person can mend; scripts print them in one line, without a traceback."""


class UserError(ValueError):
    """Something that the caller gave is wrong: the message says what, where, and how to mend it."""


class DataError(UserError):
    """A data file is missing, empty, or holds rows that cannot be used."""


class CheckpointError(UserError):
    """A model folder or hub id cannot be loaded as the sentence encoder that it should be."""
