"""What is to be done: pictures of files, folders and lists, each with the name that its output gets.

| input                  | its output in OUT                                                              |
| ---------------------- | ------------------------------------------------------------------------------ |
| the only folder        | as it lies in the folder, sub-folders kept                                     |
| one of several inputs  | a folder under its own name, a file under its name                             |
| a line of a list       | a relative path as it is, others without `/` or `scheme://`, as `tar` does it  |

A file keeps its format as in `infer`, or all are of one. A name that ends in the output's format stays; to any
other the format is added (`a.bmp` → `a.bmp.png`). So a name never depends on what else there is, and no two files
of one folder meet but `a.bmp` and `a.bmp.png`: the first of those is refused.

What `infer` made beside a folder's pictures is no input: it is noted there, or `a_x4.jpg` lies beside `a.jpg`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passionsr_trt.engines.common.errors import UsageError, UserError, reason_of
from passionsr_trt.engines.pictures.files import Found, LeftOut, is_folder, kind_of, no_picture, walk
from passionsr_trt.runtime.apps.batch.ledger import (
    OWN,
    Stamp,
    absolute,
    is_local,
    local_path,
    local_stamp,
    open_store,
    stamp_of,
)
from passionsr_trt.runtime.apps.notes import Notes
from passionsr_trt.runtime.core.ordered import ordered
from passionsr_trt.runtime.core.outputs import ending, named_as_output, source_stem

UNKNOWN = Stamp(-1, "")
AT_ONCE = 64  # lines of a list that are looked up together, half of them waiting


@dataclass(frozen=True)
class Item:
    """One picture. source: a local path or URL; key: its output's name in OUT; stamp: as it was listed."""

    source: str
    key: str
    stamp: Stamp


@dataclass(frozen=True)
class Refused:
    """A picture that has no place in OUT, and why in one line."""

    source: str
    reason: str


def pictures(
    inputs: list[str], lists: list[Path], output: str, kind: str | None, left: LeftOut
) -> Iterator[Item | Refused]:
    """All of them, folder by folder. kind: of outputs, `png`, `jpg` or `webp`, None: each its own; left: gets what
    is no picture that can be read, or an earlier run's.

    UsageError where an input and OUT overlap.
    """
    taken: dict[str, str] = {}
    alone = len(inputs) == 1 and not lists
    for url in map(absolute, inputs):
        folder = as_folder(url)
        name = url.rstrip("/\\").rsplit("/", 1)[-1].rsplit(os.sep, 1)[-1]
        if folder is None:
            found: Iterable[Item | Refused] = [_one(url, name, kind)]
        else:
            check_apart(url, output)
            if not alone and name in ("", ".", ".."):
                raise UsageError(f"{url}: has no name of its own", "expected one among several inputs")
            if not alone and taken.setdefault(f"{name}/", url) != url:
                raise UsageError(
                    f"{taken[f'{name}/']}, {url}: would both go to {name}/", "expected different names"
                )
            found = folder.pictures("" if alone else f"{name}/", output, kind, left)
        yield from found if folder is not None else _apart(found, taken)
    for file in lists:
        yield from _apart(_listed(file, kind), taken)


def output_name(name: str, kind: str | None) -> str:
    end = ending(name, kind)
    return name if name.endswith(end) else name + end


def enlarged_in(names: Iterable[str]) -> set[str]:
    """Of a folder's pictures those that are named as one of the others, enlarged."""
    stems = {name: Path(name).stem for name in names}
    there = set(stems.values())
    return {name for name, stem in stems.items() if named_as_output(stem) and source_stem(stem) in there}


def safe_key(key: str) -> bool:
    """Does a name stay in its folder, whatever the store that it came from, and out of what is ours?"""
    parts = key.split("/")
    plain = all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)
    return plain and parts[0] not in (OWN, "failed.jsonl") and ":" not in parts[0]


def check_apart(source: str, output: str) -> None:
    """UsageError where outputs would be written over inputs: OUT is the folder, or the folder lies in OUT."""
    inner, outer = _whole(source), _whole(output)
    if inner == outer or inner.startswith(outer.rstrip("/" + os.sep) + ("/" if "://" in outer else os.sep)):
        raise UsageError(f"{source}: lies in the output folder {output}", "expected another folder")


def _whole(url: str) -> str:
    return os.path.realpath(local_path(url)) if is_local(url) else url.rstrip("/")


class LocalFolder:
    """As engines/pictures/files.py walks it."""

    def __init__(self, url: str) -> None:
        self.root = local_path(url)

    def pictures(self, where: str, output: str, kind: str | None, left: LeftOut) -> Iterator[Item | Refused]:
        found = 0
        notes = Notes(Path(self.root), "", keep=False)
        for relative, entries in walk(self.root, left, local_path(output) if is_local(output) else ""):
            enlarged = enlarged_in(entry.name for entry in entries)
            made = {
                entry.name
                for entry in entries
                if notes.made(Found(Path(entry.path), f"{relative}{entry.name}", walked=True))
            }
            left.kinds.update(["made"] * len(made) + ["enlarged"] * len(enlarged - made))
            files = {
                entry.name: (entry.path, local_stamp(Path(entry.path)) or UNKNOWN)
                for entry in entries
                if entry.name not in enlarged | made
            }
            for item in _of_folder(f"{where}{relative}", files, kind):
                found += 1
                yield item
        for reason in left.folders:
            yield Refused(self.root, reason)
        left.folders.clear()
        if not found:
            raise no_picture(self.root, left)


class StoreFolder:
    """The same on any other file system."""

    def __init__(self, url: str, store: Any, root: str) -> None:
        self.url, self.store, self.root = url, store, root

    def pictures(self, where: str, output: str, kind: str | None, left: LeftOut) -> Iterator[Item | Refused]:
        found = 0
        scheme, _, chained = self.url.partition("://")
        for path, folders, files in self.store.walk(self.root, detail=True):
            relative = path[len(self.root) :].strip("/")
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            if f"{scheme}://{path}" == output.rstrip("/"):
                folders.clear()
                continue
            kinds = {name: kind_of(name) for name in sorted(files)}
            kinds |= dict.fromkeys(enlarged_in(name for name in kinds if kinds[name] == "picture"), "enlarged")
            left.kinds.update(each for each in kinds.values() if each not in ("", "picture"))
            listed = {
                name: (_join(scheme, files[name]["name"], chained), stamp_of(files[name]))
                for name, each in kinds.items()
                if each == "picture"
            }
            for item in _of_folder(f"{where}{relative}/" if relative else where, listed, kind):
                found += 1
                yield item
        if not found:
            raise no_picture(self.url, left)


def as_folder(url: str) -> LocalFolder | StoreFolder | None:
    """None for what is no folder."""
    if is_local(url):
        return LocalFolder(url) if is_folder(Path(local_path(url))) else None
    store, root = open_store(url)
    try:
        return StoreFolder(url, store, root) if store.isdir(root) else None
    except Exception as error:  # every store has its own
        raise UserError(f"{url}: cannot be read ({reason_of(error)})", "expected a file or folder") from None


def _join(scheme: str, path: str, chained: str) -> str:
    """The URL of a file on a store, and of the store behind it (`zip://a.png::s3://…`)."""
    behind = chained.partition("::")[2]
    return f"{scheme}://{path}::{behind}" if behind else f"{scheme}://{path.removeprefix(f'{scheme}://')}"


def _of_folder(where: str, files: dict[str, tuple[str, Stamp]], kind: str | None) -> Iterator[Item | Refused]:
    for name, (source, stamp) in files.items():
        made = output_name(name, kind)
        key = f"{where}{made}"
        if not safe_key(key):
            yield Refused(source, f"{source}: is no name for an output; expected one inside the folder")
        elif made != name and made in files:
            yield Refused(source, f"{source}: would become {key}, as another does; expected different names")
        else:
            yield Item(source, key, stamp)


def _apart(found: Iterable[Item | Refused], taken: dict[str, str]) -> Iterator[Item | Refused]:
    """What was named before is left out; what would become another's output is refused."""
    for item in found:
        if isinstance(item, Refused):
            yield item
        elif (other := taken.setdefault(item.key, item.source)) is item.source:
            yield item
        elif other != item.source:
            yield Refused(
                item.source, f"{item.source}: would become {item.key}, as {other}; expected different names"
            )


def _one(source: str, name: str, kind: str | None) -> Item | Refused:
    key = output_name(name, kind)
    if not safe_key(key):
        return Refused(source, f"{source}: is no name for an output; expected one inside the folder")
    if is_local(source):
        return Item(source, key, local_stamp(Path(local_path(source))) or UNKNOWN)
    store, path = open_store(source)
    try:
        return Item(source, key, stamp_of(store.info(path)))
    except Exception as error:  # every store has its own
        return Refused(source, f"{source}: cannot be read ({reason_of(error)}); expected an image")


def _listed(file: Path, kind: str | None) -> Iterator[Item | Refused]:
    """A line a picture, as it stands; many are looked up at once, where the store is far."""

    def one(line: str) -> Item | Refused:
        if not is_local(line):
            return _one(line, line.split("://", 1)[1].partition("::")[0].strip("/"), kind)
        path = os.path.normpath(local_path(line))
        if path.startswith(".."):
            path = absolute(line)
        return _one(absolute(line), os.path.splitdrive(path)[1].replace(os.sep, "/").lstrip("/"), kind)

    try:
        with file.open(encoding="utf-8") as lines, ThreadPoolExecutor(AT_ONCE // 2) as pool:
            wanted = (line.rstrip("\r\n") for line in lines if line.strip())
            yield from ordered(wanted, lambda line: pool.submit(one, line), Future.result, AT_ONCE)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror})", "expected a list, one picture a line"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8", "expected a list, one picture a line") from None
