"""The command line: types of arguments, and how a command is run and its failures become one line."""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.extras import EXTRAS, install_hint
from passionsr_trt.engines.common.signals import ended_by_signal

CALIBRATIONS = Path("calib_cache")  # where calibrations are kept, by content


def gibibytes(text: str) -> int:
    """An argparse type: GiB as a number → bytes."""
    return _number(text, 2**30, "GiB, such as 3.5")


def _float(text: str) -> float:
    """Not a number where it is none: no range holds that."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _number(text: str, unit: int, expected: str) -> int:
    number = _float(text)
    if not 0 < number < 2**20:
        raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
    return round(number * unit)


def mebibytes(text: str) -> int:
    """An argparse type: MiB as a number → bytes."""
    return _number(text, 2**20, "MiB, such as 64")


def megapixels(text: str) -> int:
    """An argparse type: megapixels as a number → pixels."""
    return _number(text, 10**6, "megapixels, such as 16")


def colour(text: str) -> tuple[int, int, int]:
    """An argparse type: a colour's name or #rrggbb → red, green, blue."""
    from PIL import ImageColor

    with suppress(ValueError):
        channels = ImageColor.getrgb(text)
        if len(channels) == 3 and 0 <= min(channels) and max(channels) <= 255:
            return channels
    raise argparse.ArgumentTypeError(f"{text!r}: expected a colour, such as white or #00ff80")


def device_name(text: str) -> str:
    """An argparse type: where PyTorch computes, as --device names it; whether it is there is asked later."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected auto, cpu, cuda or cuda:N")
    return text


MOST_THREADS = 4096
MOST_SIDE = 16_384  # pixels


def some_path(text: str) -> Path:
    """An argparse type: where something is written. Not the empty string, which would mean the current folder, nor
    `-`, which elsewhere means standard output.
    """
    return Path(written(text))


def some_input(text: str) -> Path:
    """An argparse type: what is read; a variable that is empty by mistake would mean the current folder."""
    return Path(not_empty(text))


def not_empty(text: str) -> str:
    """`some_input` as text, for what may be a URL."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return text


def written(text: str) -> str:
    """`some_path` as text, for what may be a URL."""
    if not_empty(text) == "-":
        raise argparse.ArgumentTypeError("expected a path: nothing is written to standard output (./- is a file)")
    return text


class Once(argparse.Action):
    """Keeps a value as argparse's own action does, but of an option that is given twice not just the last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given = namespace.__dict__.setdefault(GIVEN, set())
            if self.dest in given:
                how = ", all values after it" if self.nargs in ("+", "*") else ""
                raise argparse.ArgumentError(self, f"given twice; expected once{how}")
            given.add(self.dest)
        setattr(namespace, self.dest, values)


GIVEN = "given_options"


def refuse_twice(parser: argparse.ArgumentParser) -> None:
    """Of options that are added from now on: giving one twice is wrong usage."""
    for name in (None, "store"):
        parser.register("action", name, Once)


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text) if len(text) < 40 else most + 1
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{text}: expected at least {least}")
        if number > most:
            raise argparse.ArgumentTypeError(f"{text[:40]}: expected at most {most}")
        return number

    return parse


def decibels(text: str) -> float:
    """An argparse type: a finite number of decibels."""
    number = _float(text)
    if not -1000 < number < 1000:
        raise argparse.ArgumentTypeError(f"{text}: expected decibels, such as 35")
    return number


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    number = _float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def factor(text: str) -> float:
    """An argparse type: a number from 1 to 16."""
    number = _float(text)
    if not 1 <= number <= 16:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 to 16")
    return number


def moment(text: str) -> float:
    """An argparse type: a time in a clip, as seconds, minutes:seconds or hours:minutes:seconds → seconds."""
    if not re.fullmatch(r"((\d{1,3}:)?\d{1,3}:)?\d{1,7}(\.\d{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, or H:MM:SS, such as 90.5 or 1:30.5")
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    number = _float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return number


def parse_size(text: str) -> tuple[int, int]:
    """An argparse type: `512x768` → (512, 768); `check_multiple` once the model is known."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH") from None
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE):
        raise argparse.ArgumentTypeError(f"{text[:40]}: expected sides from 1 to {MOST_SIDE}")
    return height, width


def check_multiple(size: tuple[int, int], multiple: int, option: str = "--size") -> None:
    """UsageError where a size (height, width) is not one that a chain takes."""
    if any(side % multiple for side in size):
        raise UsageError(f"{option} {size[0]}x{size[1]}", f"expected multiples of {multiple}")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show, and the help does not tell it itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        shown = isinstance(default, (str, int, float, Path)) and not isinstance(default, bool)
        if action.required or not shown or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Parse, run, and turn every expected failure into one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks `×` loses it, not the work
            stream.reconfigure(errors="backslashreplace")
    arguments = parser.parse_args(argv)
    arguments.words = list(argv)
    try:
        with ended_by_signal():
            status: int = arguments.run(arguments)
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
        return status
    except UserError as error:
        if getattr(arguments, "traceback", False):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        return missing_extra(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (OSError, RecursionError) as error:  # a disk, a name or a nesting that no command foresaw
        if getattr(arguments, "traceback", False):
            raise
        print(f"error: {printable(str(error))}", file=sys.stderr)
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left for a full disk would fail again
        return 1


def missing_extra(error: ModuleNotFoundError) -> int:
    """Says which of our extras brings a module; its status. What none of them brings is raised."""
    name = (error.name or "").split(".")[0]
    if name not in EXTRAS:
        raise error
    print(f"error: {name} is not installed; {install_hint(EXTRAS[name])}", file=sys.stderr)
    return 1
