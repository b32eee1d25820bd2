"""Who is there, what they uploaded and were given, and what they run: nothing of it outlives the session.

A session's name comes from its browser and is never part of a path.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

KEPT = 3600.0  # seconds that a session without a sign of life, or an upload that nobody used, stays
BROKEN = 60.0  # seconds without a byte after which an upload was given up


class Cancelled(Exception):
    """The session does not want it any more."""


@dataclass(eq=False)
class CancelToken:
    """One press of the button, waiting or at work."""

    ended: bool = False

    def check(self) -> None:
        if self.ended:
            raise Cancelled


@dataclass
class Session:
    uploads: set[Path] = field(default_factory=set)
    results: set[Path] = field(default_factory=set)  # folders
    waiting: list[CancelToken] = field(default_factory=list)
    working: list[CancelToken] = field(default_factory=list)
    seen: float = field(default_factory=time.monotonic)


class Sessions:
    """root: the folder that the web server writes uploads to; everything in it is ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}

    def _session(self, name: str) -> Session:
        session = self._sessions.setdefault(name, Session())
        session.seen = time.monotonic()
        return session

    def uploaded(self, name: str, paths: Iterable[Path]) -> None:
        """These files are that session's; two may hold one file, which lies under its content's digest."""
        with self._lock:
            self._session(name).uploads |= {path for path in paths if self._is_ours(path)}

    def wait(self, name: str) -> None:
        """The button was pressed."""
        with self._lock:
            self._session(name).waiting.append(CancelToken())

    @contextmanager
    def work(self, name: str, paths: Iterable[Path]) -> Iterator[tuple[CancelToken, Path]]:
        """A token and a folder for results, for the time of the work. The folder stays until the session ends."""
        folder = self.root / secrets.token_hex(16)
        with self._lock:
            self.uploaded(name, paths)
            session = self._session(name)
            token = session.waiting.pop(0) if session.waiting else CancelToken()
            session.working.append(token)
            session.results.add(folder)
        folder.mkdir(mode=0o700)
        try:
            yield token, folder
        finally:
            with self._lock:
                session.working.remove(token)
                if self._sessions.get(name) is not session:  # it left meanwhile
                    shutil.rmtree(folder, ignore_errors=True)

    def cancel(self, name: str) -> int:
        """Give up what a session waits for; how much that is."""
        with self._lock:
            session = self._session(name)
            tokens = [*session.waiting, *session.working]
            session.waiting = []
            for token in tokens:
                token.ended = True
            return len(tokens)

    def end(self, name: str) -> None:
        """It left: its work stops, its files go."""
        with self._lock:
            session = self._sessions.pop(name, None)
            if session is None:
                return
            for token in (*session.waiting, *session.working):
                token.ended = True
            for folder in session.results:
                shutil.rmtree(folder, ignore_errors=True)
            for path in session.uploads - self._held():
                _remove(path)

    def close(self) -> None:
        """Everybody leaves."""
        with self._lock:
            for name in list(self._sessions):
                self.end(name)

    def tidy(self, kept: float = KEPT, broken: float = BROKEN) -> None:
        """Sessions that went without a word, uploads that broke off or are unused: soon where nobody is there."""
        with self._lock:
            for name, session in list(self._sessions.items()):
                if not session.working and time.monotonic() - session.seen > kept:
                    self.end(name)
            patience = {True: kept if self._sessions else broken, False: broken}  # of a folder, of a file
            held = self._held() | {folder for session in self._sessions.values() for folder in session.results}
            with suppress(OSError):
                for entry in self.root.iterdir():
                    mine = entry in held or any(path.is_relative_to(entry) for path in held)
                    with suppress(OSError):
                        if not mine and time.time() - entry.stat().st_mtime > patience[entry.is_dir()]:
                            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _held(self) -> set[Path]:
        return {path for session in self._sessions.values() for path in session.uploads}

    def _is_ours(self, path: Path) -> bool:
        resolved = path.resolve()
        return resolved != self.root.resolve() and resolved.is_relative_to(self.root.resolve())


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()  # named by the content's digest; stays where it is not empty
