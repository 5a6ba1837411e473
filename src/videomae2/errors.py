"""The exceptions that end a command in one line: a user's mistake (exit code 2), a fault of ours, a stop that
was asked for.
"""


class UserError(ValueError):
    """A mistake the caller can mend. The message says what came, what was expected, and what to try."""


class RowError(RuntimeError):
    """This package's own code failed on a manifest row that the message names: a fault to report, not a
    broken video.
    """


class Stopped(KeyboardInterrupt):
    """A run was asked to stop (SIGTERM, Ctrl-C) and saved itself first; `exit_code` is 128 + the signal's
    number.
    """

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
