"""The one exception a user's mistake raises; the command line prints it as a single line and exits with 2."""


class UserError(ValueError):
    """A mistake the caller can mend. The message says what came, what was expected, and what to try."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop (SIGTERM, Ctrl-C) and saved itself first; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
