"""Folders here or wherever fsspec reaches, as one thing: files under keys, relative names with `/`.

How a file becomes whole:

| the store                          | how                                                                       |
| ---------------------------------- | ------------------------------------------------------------------------- |
| a local folder                     | a temporary name in the same folder, then a rename                        |
| an object store (`ATOMIC`)         | one upload: it is there whole or not at all                               |
| any other                          | uploaded to `.passionsr-batch/unfinished/`, then moved by the file system |
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
