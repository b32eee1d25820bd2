"""A hostile trial: commands are run in a folder, and what came of each is judged."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from passionsr_trt.runtime.main import main

from tests.conftest import ROOT
from tests.hostile.bench import Bench

LOAD_ENGINES = "passionsr_trt.runtime.apps.infer.load_engines"
NOTES = ".passionsr-batch"  # of what is done, beside outputs in a folder
SECONDS = 10  # what takes a command longer counts as hung
IGNORED = (".lock", ".ses")  # in the folder of temporaries: the builders' locks, and a file of ONNX Runtime's own
ERROR_LINE = re.compile(r"^(?:[\w./-]+(?: [\w-]+)?: )?error: ")
# what tqdm moves its bars with is no escape sequence of a name's
ESCAPES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\x80-\x9f]|\x1b(?!\[A)")


@dataclass(frozen=True)
class Outcome:
    """escaped: the traceback of what left `main`. warned: Python's warnings."""

    status: int
    out: str
    err: str
    seconds: float
    escaped: str = ""
    warned: str = ""

    @property
    def error_lines(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]+|\x1b\[A", self.err) if ERROR_LINE.match(line)]


class Reached(BaseException):
    """A command came to the function at which it is stopped."""


Run = Callable[[list[str], Path, float], Outcome]


@dataclass(frozen=True)
class Trial:
    """folder: where the commands are run, and all that they may change lies."""

    folder: Path
    bench: Bench
    capture: pytest.CaptureFixture[bytes]

    def infer(self, *words: object, engines: Path | None = None, output: str = "out", **expected: Any) -> Outcome:
        form = () if any(str(word).startswith("--format") for word in words) else ("--format", "png")
        return self.command(
            "infer", *words, *form, "-o", output, "--engines", engines or self.bench.int8, **expected
        )

    def command(
        self,
        *words: object,
        accept: bool | None = None,
        errors: int | None = 1,
        must: tuple[str, ...] = (),
        may: tuple[str, ...] = ("out",),
        seconds: float = SECONDS,
        run: Run | None = None,
        **options: Any,
    ) -> Outcome:
        """Run a command, and fail where it did not end as it may.

        accept: exit 0 is wanted (True), forbidden (False), or as good as a refusal (None). errors: the lines of a
        refusal; None for any number but 0, 0 where nobody could hear them. must: files that are there whatever
        happens. may: paths (and all below them) that may appear. run: by default in this process, with `options`.
        """
        argv = [str(word) for word in words]
        present, temporaries = tree(self.folder), tree(self.bench.temporary)
        outcome = run(argv, self.folder, seconds) if run else self.in_process(argv, **options)
        after = tree(self.folder)
        left = {path for path in tree(self.bench.temporary) - temporaries if not path.endswith(IGNORED)}
        told = f"status {outcome.status}: {outcome.err.strip()[-300:]!r}"
        assert not outcome.escaped, outcome.escaped[-1500:]
        assert "Traceback (most recent" not in outcome.err + outcome.out, outcome.err[-1500:]
        assert "Exception ignored" not in outcome.err, outcome.err[-1500:]
        assert outcome.status in (0, 1, 2), told
        assert outcome.seconds < seconds, f"hang: {outcome.seconds:.0f} s, expected {seconds}; {told}"
        missing = [name for name in must if not (self.folder / name).is_file()]
        assert not missing and present <= after, f"lost: {missing}, gone: {sorted(present - after)[:3]}; {told}"
        assert accept is None or accept == (outcome.status == 0), f"accept is {accept}, {told}"
        assert not (stray := strays(after - present, may) | left), f"strays: {sorted(stray)[:4]}; {told}"
        judge_lines(outcome, errors)
        return outcome

    def in_process(self, argv: list[str], warm: bool = False, stop: str = "") -> Outcome:
        """Run a command here. warm: engines stay loaded between the cases of one process.

        stop: a function at which a long work begins; a command that comes so far counts as exit 0.
        """
        escaped, start = "", time.perf_counter()
        with ExitStack() as stack:
            warned = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("ignore")
            for kind in (UserWarning, RuntimeWarning):
                warnings.simplefilter("always", kind)
            for target, name, value in (  # as without pytest
                (sys, "unraisablehook", sys.__unraisablehook__),
                (threading, "excepthook", threading.__excepthook__),
                (logging.getLogger(), "handlers", []),
            ):
                stack.enter_context(mock.patch.object(target, name, value))
            if warm:
                stack.enter_context(mock.patch(LOAD_ENGINES, kept_open))
            if stop:
                stack.enter_context(mock.patch(stop, side_effect=Reached))
            for stream, kind in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
                stream.reconfigure(errors=kind)  # type: ignore[union-attr]
            try:
                status = main(argv)
            except Reached:
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except (Exception, KeyboardInterrupt):
                status, escaped = 1, traceback.format_exc()
        seconds = time.perf_counter() - start
        out, err = (text.decode("utf-8", errors="replace") for text in self.capture.readouterr())
        lines = "\n".join(
            f"{told.filename}:{told.lineno}: {told.category.__name__}: {told.message}" for told in warned
        )
        return Outcome(status, out, err, seconds, escaped, lines)


def strays(appeared: set[str], may: tuple[str, ...]) -> set[str]:
    """What no command may leave: what stands elsewhere, and hidden files."""
    elsewhere = {path for path in appeared if not any(path == name or path.startswith(f"{name}/") for name in may)}
    hidden = {path for path in appeared - set(may) if Path(path).name.startswith(".")}
    return elsewhere | {path for path in hidden if Path(path).name != NOTES}


def judge_lines(outcome: Outcome, errors: int | None) -> None:
    """A refusal is one line, an acceptance none; no control characters, no warnings of Python's."""
    lines = outcome.error_lines
    if outcome.status == 0:
        assert not lines, f"exit 0 with {lines[0][:200]!r}"
    elif errors != 0:
        right = lines if errors is None else len(lines) == errors
        assert right, f"{len(lines)} error lines, expected {errors}: {outcome.err[-300:]!r}"
    found = ESCAPES.search(outcome.out + outcome.err)
    assert not found, f"prints the control character {found and found.group()!r}"
    found = re.search(r"^.*\.py:\d+: \w*Warning.*$", outcome.err, re.MULTILINE)
    assert not found and not outcome.warned, f"a Python warning: {found or outcome.warned}"


def tree(folder: Path) -> set[str]:
    """Relative paths of all that is below a folder; links are not followed."""
    found = set()
    for where, folders, files in os.walk(folder):
        found |= {str((Path(where) / name).relative_to(folder)) for name in (*folders, *files)}
    return found


def kept_open(folder: Path, *_arguments: Any, **_options: Any) -> Any:
    """In place of `load_engines`: a chain that is loaded once in a process and that nobody closes."""
    return _chain(folder)


@lru_cache(maxsize=2)
def _chain(folder: Path) -> Any:
    from passionsr_trt.runtime.backends.loading import load_engines

    chain = load_engines(folder, cache=2**32)
    chain.close = lambda: None  # type: ignore[method-assign]
    return chain


def run(
    argv: list[str],
    folder: Path,
    seconds: float,
    more: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    kill: tuple[float, signal.Signals] | None = None,
    **streams: Any,
) -> Outcome:
    """A command in a process of its own. prepare: called in the child. kill: after how long, and by what."""
    words = [sys.executable, "-m", "passionsr_trt.runtime.main", *argv]
    environment, start = (
        {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(more or {})},
        time.perf_counter(),
    )
    with tempfile.TemporaryFile(dir="/tmp") as out, tempfile.TemporaryFile(dir="/tmp") as err:
        streams = {"stdout": out, "stderr": err, **streams}
        process = subprocess.Popen(
            words, cwd=folder, env=environment, preexec_fn=prepare, start_new_session=True, **streams
        )
        try:
            if kill:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(kill[0])
                process.send_signal(kill[1])
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"hang: not gone after {seconds} s")
        finally:
            process.kill()
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return Outcome(process.returncode, texts[0], texts[1], time.perf_counter() - start)


@contextmanager
def in_folder(bench: Bench, capture: pytest.CaptureFixture[bytes]) -> Iterator[Trial]:
    """A trial in a folder of its own, the working directory, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=bench.root))
    with pytest.MonkeyPatch.context() as patch:
        bench.enter(patch)
        patch.chdir(folder)
        try:
            yield Trial(folder, bench, capture)
        finally:
            patch.chdir(ROOT)
            shutil.rmtree(folder, ignore_errors=True)
