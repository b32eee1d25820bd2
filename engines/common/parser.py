"""A command line's wrong words in one line: the fact, what was expected, and that --help shows the options.

| argparse says                                     | here                                              |
| ------------------------------------------------- | ------------------------------------------------- |
| unrecognized arguments: --tiel 3                  | --tiel: no such option; did you mean --tile?      |
| unrecognized arguments: b.png                     | b.png: one word too many; expected options alone  |
| invalid choice: 'tiff' (choose from 'png', 'jpg') | 'tiff': expected one of png, jpg                  |
| invalid int value: 'x'                            | 'x': expected a whole number                      |
| expected one argument                             | expected a value after it                         |
| the following arguments are required: --images    | missing: --images                                 |
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from passionsr_trt.engines.common.errors import printable

REWORDED = (
    (
        r"invalid choice: (.*) \(choose from (.*)\)\Z",
        lambda found: f"{found[1]}: expected one of {bare(found[2])}",
    ),
    (r"invalid int value: (.*)\Z", lambda found: f"{found[1]}: expected a whole number"),
    (r"invalid float value: (.*)\Z", lambda found: f"{found[1]}: expected a number"),
    (r"expected one argument\Z", lambda _found: "expected a value after it"),
    (r"expected at least one argument\Z", lambda _found: "expected one value or more after it"),
    (r"the following arguments are required: (.*)\Z", lambda found: f"missing: {found[1]}"),
    (r"ambiguous option: (\S+) could match (.*)\Z", lambda found: f"{found[1]}: expected one of {found[2]}"),
)


class OneLineParser(argparse.ArgumentParser):
    """Ends with status 2 and one line on stderr, where argparse shows the usage first."""

    def error(self, message: str) -> NoReturn:
        for pattern, reworded in REWORDED:
            message = re.sub(pattern, reworded, message, flags=re.DOTALL)
        self.exit(2, f"error: {printable(message)}; `{self.prog} --help` shows the options\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing is left unknown. A misspelt option is named before what is missing for want of it."""
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None and not {"-h", "--help"} & {*words}:
            options = words[: words.index("--")] if "--" in words else words
            if unknown := next(filter(self._is_unknown, options), None):
                self.error(self._no_such_option(unknown))
        found, left = super().parse_known_args(words, namespace)
        if left:
            self.error(self._no_such_option(left[0]) if left[0].startswith("-") else self._too_many(left))
        return found, left

    def _is_unknown(self, word: str) -> bool:
        """A long option that is none of ours, nor short for one; argparse takes what holds a space for a value."""
        name = word.partition("=")[0]
        short = any(option.startswith(name) for option in self._names())
        return word.startswith("--") and " " not in word and not short

    def _names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def _no_such_option(self, word: str) -> str:
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, self._names(), n=1, cutoff=0.7)
        return f"{name}: no such option{f'; did you mean {near[0]}?' if near else ''}"

    def _too_many(self, words: Sequence[str]) -> str:
        """What argparse has left: of several values in a row it takes one row alone."""
        rows = [action for action in self._actions if not action.option_strings and action.nargs in ("*", "+")]
        named = rows[0].metavar or rows[0].dest if rows else ""
        expected = f"expected all {named} side by side" if named else "expected options alone"
        return f"{shlex.join(words[:1])}: one word too many; {expected}"


def bare(choices: str) -> str:
    """`'png', 'jpg'` → `png, jpg`, as newer Pythons say it."""
    return choices.replace("'", "")
