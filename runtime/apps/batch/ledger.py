"""What is done, beside the outputs: `OUT/.passionsr-batch/done-….jsonl`, a line a finished picture.

Each worker writes a file of its own a group, whole or not at all; the job gathers many into one now and then. Of
two lines about one output the later counts. A picture is, by its line, its stamps and at last its content:

| configuration, input, output                               | it is                                          |
| ---------------------------------------------------------- | ---------------------------------------------- |
| same configuration, both stamps as noted                   | done; nothing is read                          |
| same configuration, both sizes as noted, a stamp is not    | done where both files' SHA-256 are as noted    |
| anything else                                              | to be done                                     |
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle
from passionsr_trt.runtime.apps.batch.places import OWN, UNFINISHED, Place, Stamp

REVISION = 2  # of how pictures are made: another one does all of them again
MOST_FILES = 256  # more are gathered into one
PREFIX = "done-"
TRIES = 10


@dataclass(frozen=True)
class Entry:
    """One finished picture. config: `configuration`'s. The stamps are of its input as listed, and its output."""

    key: str
    config: str
    source_size: int
    source_mark: str
    source_sha256: str
    size: int
    mark: str
    sha256: str

    @property
    def source(self) -> Stamp:
        return Stamp(self.source_size, self.source_mark)

    @property
    def output(self) -> Stamp:
        return Stamp(self.size, self.mark)

    def line(self) -> bytes:
        return json.dumps(astuple(self), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


TYPES = (str, str, int, str, str, int, str, str)


def parse(line: bytes) -> Entry | None:
    """None for what is no line of ours: that picture is done again."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(values, list) and [type(value) for value in values] == list(TYPES):
        return Entry(*values)
    return None


def configuration(bundle: Bundle, options: dict[str, Any]) -> str:
    """A digest of all that decides a picture but its input: the engines' content and the options."""
    parts = {part.name: bundle.digest(part) for part in bundle.parts}
    backend = bundle.backend if isinstance(bundle, EngineBundle) else "onnx"
    decisive = [REVISION, bundle.model.digest, bundle.precision, backend, parts, options]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:32]


class Ledger:
    """The lines beside one output folder."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def files(self) -> list[str]:
        """Their keys, oldest first."""
        names = [name for name in self.place.stamps(OWN) if name.startswith(PREFIX) and name.endswith(".jsonl")]
        return [f"{OWN}/{name}" for name in sorted(names)]

    def read(self) -> dict[str, bytes]:
        """Output's key → its latest line, kept as it stands, which takes least."""
        for attempt in range(TRIES):
            try:
                return {done.key: line for line, done in self._lines(self.files())}
            except FileNotFoundError:  # another process gathered them meanwhile
                if attempt == TRIES - 1:
                    raise
        raise AssertionError

    def read_gathered(self) -> dict[str, bytes]:
        """The same; many files become one first."""
        files = self.files()
        if len(files) > MOST_FILES:
            self.gather(files)
        return self.read()

    def write(self, finished: Iterable[Entry]) -> str:
        """A new file of some lines; its key."""
        return self._write(b"".join(done.line() for done in finished))

    def gather(self, files: list[str]) -> None:
        """Many files into one, which is there before they go."""
        latest = {done.key: line for line, done in self._lines(files)}
        self._write(b"".join(latest.values()))
        for file in files:
            self.place.remove(file)

    def sweep(self) -> None:
        """What killed uploads left; nothing else is in that folder."""
        if self.place.local is None:
            for name in self.place.stamps(UNFINISHED):
                self.place.remove(f"{UNFINISHED}/{name}")

    def _write(self, content: bytes) -> str:
        file = f"{OWN}/{PREFIX}{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl"
        self.place.write(file, content)
        return file

    def _lines(self, files: Iterable[str]) -> Iterator[tuple[bytes, Entry]]:
        for file in files:
            for line in self.place.read(file).splitlines(keepends=True):
                done = parse(line)
                if done is not None:
                    yield line, done


def verdict(done: Entry | None, config: str, source: Stamp, output: Stamp | None) -> str:
    """`done`, `look` or `todo`, by the table above."""
    if done is None or done.config != config or output is None or output.size != done.size:
        return "todo"
    if source.proves(done.source) and output.proves(done.output):
        return "done"
    return "todo" if -1 not in (source.size, done.source_size) and source.size != done.source_size else "look"
