"""The exceptions that end a command in one line instead of a traceback."""


class UserError(ValueError):
    """A mistake that the caller can mend; the command line exits with 2.

    The message finishes the sentence: expected X, got Y; try Z.
    """


class RowError(RuntimeError):
    """This package's own code failed on a manifest row, which the message names.

    It is a fault to report and ends the run, unlike a video that cannot be read: that becomes a `Failure` and
    is counted.
    """


class Stopped(KeyboardInterrupt):
    """A run was asked to stop (SIGTERM, Ctrl-C) and saved itself first.

    `exit_code` is 128 + the signal's number, as shells report it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    # A KeyboardInterrupt, so that no `except Exception` between the loop and the command line swallows it.

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
