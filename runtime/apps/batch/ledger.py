"""An output folder here or wherever fsspec reaches, files under keys (relative names with `/`), and its ledger.

How a file becomes whole:

| the store                          | how                                                                       |
| ---------------------------------- | ------------------------------------------------------------------------- |
| a local folder                     | a temporary name in the same folder, then a rename                        |
| an object store (`ATOMIC`)         | one upload: it is there whole or not at all                               |
| any other                          | uploaded to `.passionsr-batch/unfinished/`, then moved by the file system |

The ledger says what is done, beside the outputs: `OUT/.passionsr-batch/done-….jsonl`, a line a finished picture.

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
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.common.temporaries import prefix
from passionsr_trt.engines.common.writing import write_atomic

OWN = ".passionsr-batch"  # the sub-folder of an output that is ours
UNFINISHED = f"{OWN}/unfinished"
ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"}
# what file systems call a thing that changes with a file's content, best first
MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "CRC",
    "mtime",
    "LastModified",
    "last_modified",
    "modified",
    "updated",
    "created",
)
REVISION = 2  # of how pictures are made: another one does all of them again
MOST_FILES = 256  # more are gathered into one
PREFIX = "done-"
TRIES = 10


@dataclass(frozen=True)
class Stamp:
    """What a listing tells of a file's content. size: bytes, -1 unknown; mark: etag or time, "" unknown."""

    size: int
    mark: str

    def proves(self, other: Stamp) -> bool:
        """Is it certain, without reading it, that the content is the same?"""
        return self == other and self.size >= 0 and self.mark != ""


class Place:
    """A folder, by a local path or a URL of fsspec's. Credentials are fsspec's own (its configuration, the store's
    variables).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.local = Path(local_path(url)).absolute() if is_local(url) else None

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_store(self.url)

    def address(self, key: str) -> str:
        """For messages, and to open the file by itself."""
        return str(self.local / key) if self.local is not None else f"{self.url.rstrip('/')}/{key}"

    def path(self, key: str) -> Path:
        """Of a local place. UserError where links lead out of it."""
        assert self.local is not None
        path = self.local / key
        if not path.parent.resolve().is_relative_to(self.local.resolve()):
            raise UserError(f"{path}: links lead out of {self.local}", "expected a place inside it")
        return path

    def stamp(self, key: str) -> Stamp | None:
        """None where there is no such file."""
        if self.local is not None:
            return local_stamp(self.local / key)
        store, root = self._opened
        try:
            return stamp_of(store.info(f"{root}/{key}"))
        except FileNotFoundError:
            return None

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """The files of one folder by name; none where it is missing."""
        try:
            if self.local is not None:
                with os.scandir(self.local / folder) as entries:
                    return {entry.name: stamp_of_local(entry.stat()) for entry in entries if entry.is_file()}
            store, root = self._opened
            listed = store.ls(f"{root}/{folder}".rstrip("/"), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {info["name"].rsplit("/", 1)[-1]: stamp_of(info) for info in listed if info["type"] == "file"}

    def read(self, key: str) -> bytes:
        if self.local is not None:
            return (self.local / key).read_bytes()
        store, root = self._opened
        content: bytes = store.cat_file(f"{root}/{key}")
        return content

    def write(self, key: str, content: bytes) -> None:
        """A whole file or none. Raises UserError or the store's own errors."""
        if self.local is not None:
            write_atomic(self.path(key), content)
        else:
            self._deliver(key, lambda store, path: store.pipe_file(path, content))

    def upload(self, file: Path, key: str) -> None:
        """A local file to a place elsewhere, whole or not at all."""
        self._deliver(key, lambda store, path: store.put_file(str(file), path))

    def remove(self, key: str) -> None:
        if self.local is not None:
            (self.local / key).unlink(missing_ok=True)
            return
        store, root = self._opened
        if store.exists(f"{root}/{key}"):
            store.rm_file(f"{root}/{key}")

    def _deliver(self, key: str, send: Any) -> None:
        store, root = self._opened
        protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
        if protocols & ATOMIC:
            send(store, f"{root}/{key}")
            return
        unfinished = f"{root}/{UNFINISHED}/{prefix()}{secrets.token_hex(6)}"
        for path in (unfinished, f"{root}/{key}"):
            store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        try:
            send(store, unfinished)
            store.mv(unfinished, f"{root}/{key}")
        except BaseException:
            if store.exists(unfinished):
                store.rm_file(unfinished)
            raise


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith(("file://", "local://"))


def local_path(url: str) -> str:
    if "://" not in url:
        return url
    from fsspec.implementations.local import LocalFileSystem

    return str(LocalFileSystem._strip_protocol(url))


def absolute(url: str) -> str:
    """For processes that stand elsewhere."""
    return os.path.normpath(Path(local_path(url)).absolute()) if is_local(url) else url


def open_store(url: str) -> tuple[Any, str]:
    """An fsspec file system and the path on it. UserError where there is none for the URL."""
    from fsspec.core import url_to_fs

    try:
        store, root = url_to_fs(url)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # every store has its own
        raise UserError(
            f"{url}: cannot be opened ({reason_of(error)})", "expected a path or a URL of fsspec's"
        ) from None
    return store, root.rstrip("/")


def local_stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of_local(path.stat())
    except OSError:
        return None


def stamp_of_local(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, str(status.st_mtime_ns))


def stamp_of(info: Mapping[str, Any]) -> Stamp:
    size = info.get("size")
    mark = next((str(info[name]) for name in MARKS if info.get(name)), "")
    return Stamp(size if isinstance(size, int) else -1, mark)


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
    backend = bundle.backend.name if isinstance(bundle, EngineBundle) else "onnx"
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
