"""A clip's segments while it is made: `OUT_FOLDER/.passionsr-video-NAME/`, gone when the clip is whole.

`segments.jsonl` begins with what they are segments of; each line after it is one that is whole. A killed run
leaves them, and the next run of the same command takes them up; of anything else they are thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import prefix, sweep

LOG = "segments.jsonl"


@dataclass(frozen=True)
class Whole:
    """A segment that is written. frames: of the clip that it stands for; end: where its last one ends, in the
    clip's unit; failed: lines of frames that could not be made.
    """

    name: str
    frames: int
    end: int
    failed: tuple[str, ...] = ()


class Segments:
    """config: a digest of all that decides a segment. UserError where the disk refuses."""

    def __init__(self, target: Path, config: str) -> None:
        self.folder = folder_of(target)
        self.whole: list[Whole] = []
        self.dropped = False  # were there segments of something else?
        self._log = self.folder / LOG
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        if not self._taken_up(config):
            self.dropped = self._log.exists()
            for path in self.folder.glob("*.nut"):
                path.unlink()
            self._log.write_text(json.dumps({"config": config}) + "\n", encoding="utf-8")

    def _taken_up(self, config: str) -> bool:
        """Are those that are there of this configuration? None counts from a torn line or a missing file on."""
        try:
            first, *lines = self._log.read_text(encoding="utf-8").splitlines()
            if json.loads(first) != {"config": config}:
                return False
        except (OSError, ValueError):
            return False
        with suppress(ValueError, TypeError):
            for line in lines:
                entry = json.loads(line)
                whole = Whole(**{**entry, "failed": tuple(entry["failed"])})
                if not (self.folder / whole.name).is_file():
                    break
                self.whole.append(whole)
        kept = [json.dumps({"config": config}), *(json.dumps(asdict(one)) for one in self.whole)]
        self._log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return True

    @property
    def frames(self) -> int:
        """That need not be made any more."""
        return sum(one.frames for one in self.whole)

    @property
    def files(self) -> list[Path]:
        return [self.folder / one.name for one in self.whole]

    def temporary(self) -> Path:
        """Where the next one is written."""
        return self.folder / f"{prefix()}{len(self.whole):06d}.nut"

    def add(self, frames: int, end: int, failed: list[str]) -> None:
        """The next one is whole."""
        one = Whole(f"{len(self.whole):06d}.nut", frames, end, tuple(failed))
        self.temporary().replace(self.folder / one.name)
        self.whole.append(one)
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one)) + "\n")

    def remove(self) -> None:
        """The clip is whole."""
        for path in (*self.files, self._log):
            path.unlink(missing_ok=True)


def folder_of(target: Path) -> Path:
    return target.with_name(f".passionsr-video-{target.name}")


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """UserError where another run makes the same clip."""
    folder = folder_of(target)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        with lock.acquire(timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no file that is open
                    (folder / "lock").unlink()
    except Timeout:
        raise UserError(f"{target}: another run makes it", "expected one at a time") from None
    finally:
        with suppress(OSError):
            folder.rmdir()  # where nothing else is left in it
