"""What infer notes of its pictures, by which --resume leaves them out.

The notes are `batch`'s (batch/ledger.py): of each output its input's content and its own, the engines and the
options. Each is written when its picture is, so that a run may be killed at any moment.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock

from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.pictures.files import Found
from passionsr_trt.engines.pictures.pictures import Picture
from passionsr_trt.runtime.apps.batch.ledger import (
    MOST_FILES,
    OWN,
    Entry,
    Ledger,
    Place,
    Stamp,
    local_stamp,
    parse,
    verdict,
)
from passionsr_trt.runtime.core.outputs import is_file
from tqdm import tqdm

AGAIN = {  # why a picture whose output is there is made again
    "engines": "by other engines or options",
    "source": "of a picture that has changed",
    "output": "changed or damaged since",
    "unknown": "without a note of how it was made",
}


class Notes:
    """Of the pictures in one output folder. config: the engines' and the options' digest (ledger.configuration).

    keep: whether to note what is made. UserError, when they are first asked for, where notes cannot be read.
    """

    def __init__(self, folder: Path, config: str, keep: bool) -> None:
        self.folder, self.config, self.keep = folder, config, keep
        self.ledger = Ledger(Place(str(folder)))
        self.files: list[str] = []  # written and not gathered yet
        self.read: dict[Path, tuple[Stamp, str]] = {}  # inputs, as they were when they were decoded
        self._lock = Lock()

    @cached_property
    def known(self) -> dict[str, bytes]:
        """Output's key → its latest line."""
        try:
            return self.ledger.read()
        except OSError as error:
            raise UserError(f"{self.folder / OWN}: cannot be read ({error.strerror})", "expected notes") from None

    def made(self, picture: Found) -> bool:
        """Is a picture of a folder an earlier run's output, where both are one folder?"""
        within = os.path.realpath(self.folder).rstrip(os.sep) + os.sep
        mine = picture.walked and os.path.realpath(picture.path).startswith(within)
        done = self._done(picture.path) if mine else None
        return done is not None and local_stamp(picture.path) == done.output

    def waiting(self, pairs: dict[Path, Path]) -> tuple[dict[Path, Path], Counter[str]]:
        """The pairs that are to be done, and of those whose output is there why."""
        left, why = {}, Counter[str]()
        for source, target in pairs.items():
            reason = self._reason(source, target)
            if reason is not None:
                left[source] = target
                why.update([reason] if reason else [])
        return left, why

    def _reason(self, source: Path, target: Path) -> str | None:
        """Of `AGAIN`, nothing where there is no output, None where it is done."""
        output, done = local_stamp(target), self._done(target)
        if output is None:
            return ""
        if done is None:
            return "unknown"
        if done.config != self.config:
            return "engines"
        stamp = local_stamp(source) or Stamp(-1, "")
        if verdict(done, self.config, stamp, output) == "done":
            return None
        try:  # what was copied or moved has other times
            if stamp.size != done.source.size or sha256(source) != done.source_sha256:
                return "source"
            if output.size != done.output.size or sha256(target) != done.sha256:
                return "output"
        except OSError:
            return "source"
        return None

    def _done(self, target: Path) -> Entry | None:
        """The note of a file in the folder."""
        line = self.known.get(self._key(target))
        return parse(line) if line else None

    def _key(self, target: Path) -> str:
        """Its place in the folder, links followed; of what links lead out of it, no note's."""
        place = f"{os.path.realpath(target.parent)}/{target.name}"
        return os.path.relpath(place, os.path.realpath(self.folder)).replace(os.sep, "/")

    def reading(self, read: Callable[[Path], Picture], source: Path) -> Picture:
        """`read`, and what was read is kept in mind; in several threads."""
        stamp = local_stamp(source)
        picture = read(source)
        if self.keep and stamp is not None:
            with suppress(OSError):
                self.read[source] = stamp, sha256(source)
        return picture

    def note(self, source: Path, target: Path) -> None:
        """A picture was written. Nothing is noted where its input changed meanwhile; a full disk is said once.

        May be called in several threads.
        """
        with self._lock:
            self._note(source, target)

    def _note(self, source: Path, target: Path) -> None:
        stamp, digest = self.read.pop(source, (None, ""))
        if not self.keep or stamp is None or local_stamp(source) != stamp:
            return
        try:
            made = target.stat()
            at, content = (made.st_size, str(made.st_mtime_ns)), sha256(target)
            done = Entry(self._key(target), self.config, stamp.size, stamp.mark, digest, *at, content)
            self.files.append(self.ledger.write([done]))
            if len(self.files) >= MOST_FILES:
                self.gather()
        except (UserError, OSError, ValueError) as error:
            self.keep = False
            tqdm.write(printable(f"{error}: --resume will do again what follows"), file=sys.stderr)

    def close(self) -> None:
        self.gather()

    def gather(self) -> None:
        """Many files into one, whose lines another process may have gathered before."""
        files, self.files = self.files, []
        with suppress(UserError, OSError):
            everything = self.ledger.files()
            if many := everything if len(everything) > MOST_FILES else files:
                self.ledger.gather(many)


class NotesByPicture:
    """The notes that each picture's output belongs to: the output folder's, or of outputs that lie beside their
    pictures those of the folder that was given. One file's folder is not ours to keep notes in, unless resumed.
    """

    def __init__(self, found: list[Found], output: Path | None, config: str, resume: bool) -> None:
        self.of: dict[Path, Notes] = {}
        by_folder: dict[Path, Notes] = {}
        self._roots = {picture.root: Notes(picture.root, config, False) for picture in found if picture.walked}
        for picture in found:
            if output is None:
                folder, keep = picture.root, picture.walked
            else:
                folder, keep = (output.parent, False) if is_file(output) else (output, True)
            notes = by_folder.setdefault(folder, Notes(folder, config, resume))
            notes.keep = notes.keep or keep
            self.of[picture.path] = notes
        self.all = list(by_folder.values())

    def made(self, picture: Found) -> bool:
        """Is a picture of a folder an earlier run's output, of a run into that folder or beside its pictures?"""
        places = [self.of[picture.path], *([self._roots[picture.root]] if picture.walked else [])]
        return any(notes.made(picture) for notes in places)

    def waiting(self, pairs: dict[Path, Path]) -> tuple[dict[Path, Path], Counter[str]]:
        """As `Notes.waiting`."""
        left, why = set[Path](), Counter[str]()
        for notes in self.all:
            some, reasons = notes.waiting({one: pairs[one] for one in pairs if self.of[one] is notes})
            left |= set(some)
            why += reasons
        return {source: target for source, target in pairs.items() if source in left}, why

    def close(self) -> None:
        for notes in self.all:
            notes.close()


def resumed(total: int, left: int, why: Counter[str]) -> list[str]:
    """Lines of what --resume found."""
    lines = [f"{total - left} of {total} are there already; skipped"] if left < total else []
    if why:
        reasons = ", ".join(f"{count} {AGAIN[reason]}" for reason, count in sorted(why.items()))
        lines.append(f"{sum(why.values())} of {total} are there and done again: {reasons}")
    return lines
