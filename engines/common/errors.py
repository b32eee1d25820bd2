"""The one error a user is meant to read: one line with the fact, what was expected, the way out."""


class UserError(Exception):
    """A failure whose message is complete: the command prints it as it is and exits with status 1."""

    def __init__(self, fact: str, expected: str = "", fix: str = "") -> None:
        self.fact, self.expected, self.fix = fact, expected, fix
        super().__init__("; ".join(part for part in (fact, expected, fix) if part))


class EngineError(UserError):
    """An engine cannot be used, whatever the picture: it ends the command, not one picture's turn."""


class NotHereError(UserError):
    """This machine lacks what the work needs, a library or a GPU; what was asked for may be right."""


class UsageError(UserError):
    """The command line itself is wrong: exit status 2."""


def reason_of(error: Exception) -> str:
    """Another library's exception in one line of at most 200 characters."""
    return " ".join((str(error) or type(error).__name__).split())[:200]


def printable(text: str) -> str:
    """Control characters as escapes: a file's name may hold newlines, or what a terminal obeys."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
