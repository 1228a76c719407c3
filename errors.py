"""The two errors that palate raises on purpose; the command line prints them as one line and no traceback."""


class PalateError(Exception):
    """Something outside palate's power stopped the work: a full disk, lost memory, a loss that is not finite."""

    exit_code = 1


class UserError(PalateError):
    """What was asked for cannot be done as asked; the message says what is wrong and what to do instead."""

    exit_code = 2
