"""A hostile case: a folder is prepared, a command is run in it, and what came of it is judged."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

from passionsr_trt.runtime.main import main

from tests.hostile.bench import Bench

NOTES = ".passionsr-batch"  # of what is done, beside outputs in a folder
SECONDS = 10  # after these a command counts as hung
FAULTS = ("traceback", "hang", "lost", "acceptance", "stray", "other")
IGNORED = (".lock", ".ses")  # in the folder of temporaries: the builders' locks, and a file of ONNX Runtime's own
ERROR_LINE = re.compile(r"^(?:[\w./-]+(?: [\w-]+)?: )?error: ")
# what tqdm moves its bars with is no escape sequence of a name's
ESCAPES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\x80-\x9f]|\x1b(?!\[A)")


@dataclass(frozen=True)
class Outcome:
    """status: None where the command never came to one. escaped: the traceback of what left `main`."""

    status: int | None
    out: str
    err: str
    escaped: str = ""
    hung: bool = False
    seconds: float = 0.0

    @property
    def error_lines(self) -> list[str]:
        lines = re.split(r"[\r\n]+|\x1b\[A", self.err)
        return [line for line in lines if ERROR_LINE.match(line)]


@dataclass(frozen=True)
class Trial:
    """What is run, and what it may end in.

    accept: exit 0 is wanted (True), forbidden (False), or as good as a refusal if `judge` finds it right (None).
    judge: what is wrong with the results of an exit 0. errors: lines of a refusal, None for any number but 0.
    must: files that are there whatever happens. may: paths (and all below them) that may appear.
    run: how; by itself in this process. warm: engines stay loaded between cases of one process.
    stop: a function at which a long work begins; a command that comes so far counts as exit 0.
    """

    argv: list[str]
    accept: bool | None = None
    judge: Callable[[Outcome], str] = lambda _outcome: ""
    errors: int | None = 1
    must: tuple[str, ...] = ()
    may: tuple[str, ...] = ("out",)
    run: Callable[[Path], Outcome] | None = None
    warm: bool = False
    stop: str = ""
    seconds: float = SECONDS


@dataclass(frozen=True)
class Case:
    """make: prepares an empty folder, the working directory of the command, and says what is run."""

    name: str
    kind: str
    make: Callable[[Path, Bench], Trial] = field(compare=False)

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Verdict:
    """fault: one of FAULTS, or nothing where all is well."""

    kind: str
    name: str
    fault: str = ""
    reason: str = ""
    command: str = ""
    seconds: float = 0.0


class Reached(BaseException):
    """A command came to its trial's `stop`."""


class Hang(BaseException):
    """The watchdog's: nothing that catches exceptions stops it."""


def try_case(case: Case, bench: Bench) -> Verdict:
    """Run one case in a folder of its own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=bench.root))
    before = Path.cwd()
    try:
        trial = case.make(folder, bench)
        present, temporaries = tree(folder), tree(bench.temporary)
        os.chdir(folder)
        run = trial.run or (lambda where: in_process(trial, where))
        outcome = run(folder)
        appeared = tree(folder) - present
        left = {path for path in tree(bench.temporary) - temporaries if not path.endswith(IGNORED)}
        fault, reason = judge(trial, outcome, folder, appeared, left)
        if present - tree(folder):
            fault, reason = fault or "lost", f"{reason}; gone: {sorted(present - tree(folder))[:3]}"
        command = " ".join(map(repr, trial.argv)).replace(str(bench.root), "$BENCH")
        return Verdict(case.kind, case.name, fault, reason, command, outcome.seconds)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def judge(trial: Trial, outcome: Outcome, folder: Path, appeared: set[str], left: set[str]) -> tuple[str, str]:
    """(fault, reason), the gravest one; two empty strings where all is well."""
    told = outcome.err.strip().splitlines()[-1:] or [""]
    if outcome.hung:
        return "hang", f"not done after {trial.seconds:.0f} s{last_frames(outcome.escaped)}"
    if outcome.escaped:
        return "traceback", last_frames(outcome.escaped)
    if "Traceback (most recent" in outcome.err + outcome.out or "Exception ignored" in outcome.err:
        return "traceback", last_frames(outcome.err)
    if outcome.status not in (0, 1, 2):
        return "traceback", f"status {outcome.status}: {told[0][:300]}"
    if missing := [name for name in trial.must if not (folder / name).is_file()]:
        return "lost", f"{missing[0]} is not there (status {outcome.status}: {told[0][:300]})"
    if outcome.status == 0:
        wrong = "exit 0" if trial.accept is False else trial.judge(outcome)
        if wrong:
            return "acceptance", wrong
    elif trial.accept:
        return "other", f"refused: {' | '.join(outcome.error_lines)[:300]}"
    stray = {path for path in appeared if not any(path == may or path.startswith(f"{may}/") for may in trial.may)}
    hidden = {path for path in appeared - set(trial.may) if Path(path).name.startswith(".")}
    stray |= {path for path in hidden if Path(path).name != NOTES} | left
    if stray:
        return "stray", ", ".join(sorted(stray)[:4])
    return faults_of_text(trial, outcome)


def faults_of_text(trial: Trial, outcome: Outcome) -> tuple[str, str]:
    """What is wrong with the lines that were printed."""
    lines = outcome.error_lines
    if outcome.status and (not lines if trial.errors is None else len(lines) != trial.errors):
        return "other", f"{len(lines)} error lines, expected {trial.errors}: {outcome.err[-300:]!r}"
    if outcome.status == 0 and lines:
        return "other", f"exit 0 with {lines[0][:200]!r}"
    if found := ESCAPES.search(outcome.out + outcome.err):
        return "other", f"prints the control character {found.group()!r}"
    if found := re.search(r"^.*\.py:\d+: \w*Warning.*$", outcome.err, re.MULTILINE):
        return "other", f"prints a Python warning: {found.group()[:300]}"
    return "", ""


def last_frames(text: str) -> str:
    """The last lines of a traceback with file:line of our own code."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    own = [
        f"{Path(*Path(file).parts[-3:])}:{line} {name}"
        for file, line, name in frames
        if "/site-packages" not in file
    ]
    last = next((line for line in reversed(text.strip().splitlines()) if line and not line.startswith(" ")), "")
    return f"{last[:300]} [{' < '.join(reversed(own[-3:]))}]" if own else last[:300]


def tree(folder: Path) -> set[str]:
    """Relative paths of all that is below a folder; links are not followed."""
    found = set()
    for where, folders, files in os.walk(folder):
        found |= {str((Path(where) / name).relative_to(folder)) for name in (*folders, *files)}
    return found


def in_process(trial: Trial, folder: Path) -> Outcome:
    """Run the command here, its streams and file descriptors 1 and 2 captured, with a watchdog."""
    status: int | None = None
    escaped, hung = "", False
    start = time.perf_counter()
    with ExitStack() as stack:
        out, err = stack.enter_context(captured())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for kind in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", kind)
        if trial.warm:
            stack.enter_context(mock.patch("passionsr_trt.runtime.apps.infer.load_engines", kept_open))
        if trial.stop:
            stack.enter_context(mock.patch(trial.stop, side_effect=Reached))
        try:
            with watchdog(trial.seconds, folder):
                status = main(trial.argv)
        except Reached:
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Hang:
            hung, escaped = True, traceback.format_exc()
        except BaseException:
            escaped = traceback.format_exc()
        seconds = time.perf_counter() - start
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        texts = [read_back(stream) for stream in (out, err)]
    return Outcome(status, *texts, escaped, hung, seconds)


def read_back(stream: Any) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", errors="replace")


@contextmanager
def captured() -> Iterator[tuple[Any, Any]]:
    """Both streams, Python's and the libraries' own, in temporary files."""
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir="/tmp")) for _ in range(2)]
        saved = [os.dup(1), os.dup(2)]
        streams = sys.stdout, sys.stderr
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout = io.TextIOWrapper(os.fdopen(os.dup(files[0].fileno()), "wb"), "utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(
            os.fdopen(os.dup(files[1].fileno()), "wb"), "utf-8", "backslashreplace", line_buffering=True
        )
        try:
            yield files[0], files[1]
        finally:
            sys.stdout, sys.stderr = streams
            for number, handle in enumerate(saved, start=1):
                os.dup2(handle, number)
                os.close(handle)


@contextmanager
def watchdog(seconds: float, folder: Path) -> Iterator[None]:
    """Hang after `seconds`, and every second after that; whoever waits at a FIFO of the folder is let go."""

    def bark(_number: int, _frame: Any) -> None:
        for name in tree(folder):
            with suppress(OSError):
                if (folder / name).is_fifo():
                    os.close(os.open(folder / name, os.O_RDWR | os.O_NONBLOCK))
        raise Hang

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def kept_open(folder: Path, *_arguments: Any, **_options: Any) -> Any:
    """In place of `load_engines`: a chain that is loaded once in a process and that nobody closes."""
    return _chain(folder)


@lru_cache(maxsize=2)
def _chain(folder: Path) -> Any:
    from passionsr_trt.runtime.backends.loading import load_engines

    chain = load_engines(folder, cache=2**32)
    chain.close = lambda: None  # type: ignore[method-assign]
    return chain
