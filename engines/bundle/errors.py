"""The one error a user is meant to read: one line with the fact, what was expected, the way out."""


class UserError(Exception):
    """A failure whose message is complete: the command prints it as it is and exits with status 1."""

    def __init__(self, fact: str, expected: str = "", fix: str = "") -> None:
        self.fact, self.expected, self.fix = fact, expected, fix
        super().__init__("; ".join(part for part in (fact, expected, fix) if part))


class UsageError(UserError):
    """The command line itself is wrong: exit status 2."""
