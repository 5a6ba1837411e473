"""The one exception a user's mistake raises; the command line prints it as a single line and exits with 2."""


class UserError(ValueError):
    """A mistake the caller can mend. The message says what came, what was expected, and what to try."""
