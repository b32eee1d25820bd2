"""One worker: a chain of its own, loaded and checked once; some pictures at a time, from files to files.

Pictures are read, made and written as `infer` does (core/files.py). Here is what it takes to do so for files
that lie elsewhere, and to note what is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.common.errors import EngineError, UsageError, UserError, reason_of
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.runtime.apps.batch.inputs import Item
from passionsr_trt.runtime.apps.batch.ledger import (
    Entry,
    Ledger,
    Place,
    Stamp,
    is_local,
    local_path,
    open_store,
    parse,
    stamp_of_local,
)
from passionsr_trt.runtime.apps.infer import Recipe
from passionsr_trt.runtime.core.files import by_size, upscale_all


@dataclass(frozen=True)
class Settings:
    """What every worker is told. config: of the ledger; neighbours: workers that share a machine's memory; tries:
    deaths of workers that a picture may be there at.
    """

    recipe: Recipe
    output: str
    config: str
    threads: int
    neighbours: int
    tries: int


@dataclass(frozen=True)
class Outcome:
    """What became of a picture: `done`, `kept` (it was done, by its content), `failed` with its reason, or
    `fatal`: the job ends. usage: the command line was wrong.
    """

    source: str
    status: str
    reason: str = ""
    usage: bool = False


class Worker:
    """Upscales what it is handed; `starts` is told before, and knows at which pictures workers died."""

    def __init__(self, settings: Settings) -> None:
        """A chain that cannot be had is told with the first pictures: an exception would be Ray's, in pages."""
        self.settings, self.output = settings, Place(settings.output)
        self.ledger = Ledger(self.output)
        self.unusable: Outcome | None = None
        try:
            self.options = settings.recipe.options
            self.chain = settings.recipe.open(settings.threads)
            if self.options.memory is None and (memory := self.chain.memory) is not None:
                self.options = replace(self.options, memory=memory.free // settings.neighbours)
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else reason_of(error)
            self.unusable = Outcome(str(settings.recipe.engines), "fatal", reason, isinstance(error, UsageError))

    def run(self, items: Sequence[Item], notes: Sequence[bytes], starts: Any) -> tuple[list[Outcome], str]:
        """Outcomes, and the ledger's file where there is one. notes: an earlier line of the ledger where the
        picture has to be looked at, else empty. starts: see cluster.Starts.
        """
        if self.unusable:
            return [self.unusable], ""
        outcomes: list[Outcome] = []
        finished: list[Entry] = []
        waiting = []
        for item, note in zip(items, notes, strict=True):
            if note and (kept := self.look(item, parse(note))) is not None:
                outcomes.append(Outcome(item.source, "kept"))
                finished.append(kept)
            else:
                waiting.append(item)
        fatal = ""
        for group in self.groups(waiting, starts, outcomes):
            try:
                for item, result in self.upscale(group):
                    if isinstance(result, Entry):
                        finished.append(result)
                        outcomes.append(Outcome(item.source, "done"))
                    else:
                        outcomes.append(Outcome(item.source, "failed", result))
            except EngineError as error:
                fatal = str(error)
                break
        file = ""
        try:
            file = self.ledger.write(finished) if finished else ""
        except Exception as error:  # every store has its own
            fatal = fatal or f"{self.output.url}: what is done cannot be noted ({reason_of(error)})"
        starts.forget([item.key for item in waiting])
        return [Outcome("", "fatal", fatal)] if fatal else outcomes, file

    def groups(self, items: list[Item], starts: Any, outcomes: list[Outcome]) -> Iterator[list[Item]]:
        """All together at first. Those at which a worker died are done one by one, so that the one that kills is
        known; it fails where it did so too often. One file under two names is no group.
        """
        deaths = starts.begin([item.key for item in items])
        fresh = {item.source: item for item in items if not deaths[item.key]}
        if fresh:
            yield list(fresh.values())
        for item in items:
            if deaths[item.key] >= self.settings.tries:
                times = f"{deaths[item.key]} times"
                reason = (
                    f"{item.source}: the process that worked on it died, {times}; expected it to bear the picture"
                )
                outcomes.append(Outcome(item.source, "failed", reason))
            elif deaths[item.key]:
                starts.again(item.key)
                yield [item]
                starts.bore(item.key)
            elif fresh[item.source] is not item:
                yield [item]

    def look(self, item: Item, done: Entry | None) -> Entry | None:
        """The picture's line with today's stamps where input and output hold what they held, else None."""
        if done is None:
            return None
        try:
            with temporary_folder() as folder:
                source = fetched(item.source, folder / "in")
                target = fetched(self.output.address(item.key), folder / "out")
                stamp = self.output.stamp(item.key)
                if stamp is None or (sha256(source), sha256(target)) != (done.source_sha256, done.sha256):
                    return None
        except Exception:  # what cannot be read is done again, and tells then
            return None
        return replace(
            done,
            source_size=item.stamp.size,
            source_mark=item.stamp.mark,
            size=stamp.size,
            mark=stamp.mark,
        )

    def upscale(self, group: list[Item]) -> Iterator[tuple[Item, Entry | str]]:
        """Each picture's line for the ledger, or why it failed. Raises EngineError."""
        far = self.output.local is None or not all(is_local(item.source) for item in group)
        with temporary_folder() if far else nullcontext() as folder:
            pairs: dict[Path, Path] = {}
            ours: dict[Path, tuple[Item, str]] = {}  # by source, with its digest before it is decoded
            for number, item in enumerate(group):
                try:
                    source = fetched(item.source, None if folder is None else folder / str(number))
                    target = self.target(item, source, folder)
                except Exception as error:  # every store has its own
                    yield item, _line(error, item.source)
                    continue
                pairs[source], ours[source] = target, (item, "")
                with suppress(OSError):  # what cannot be read tells when it is
                    ours[source] = item, sha256(source)
            left = dict(pairs)
            try:
                for made in upscale_all(self.chain, by_size(pairs, self.chain), self.options):
                    source = made.source
                    del left[source]
                    yield ours[source][0], self.note(*ours[source], source, pairs[source], made.error)
            except EngineError:
                raise
            except Exception as error:  # what nobody foresaw is one picture's fault: which one shows when alone
                if len(group) == 1:
                    yield group[0], _line(error, group[0].source)
                    return
        for source in left:
            yield from self.upscale([ours[source][0]])

    def target(self, item: Item, source: Path, folder: Path | None) -> Path:
        """Where the picture is written: at its place, or in `folder` until it is sent off."""
        if self.output.local is None:
            assert folder is not None
            return folder / f"out-{source.name}{Path(item.key).suffix}"
        target = self.output.path(item.key)
        if os.path.realpath(source) == os.path.realpath(target):
            raise UserError(f"{target}: would overwrite its own input", "expected another folder")
        return target

    def note(self, item: Item, digest: str, source: Path, target: Path, failure: Exception | None) -> Entry | str:
        """The line of a picture that was made, after it was brought to its place, or why it failed."""
        if failure is not None:
            return _line(failure, item.source, source, target)
        try:
            made = sha256(target)
            stamp: Stamp | None = stamp_of_local(target.stat())
            if self.output.local is None:
                self.output.upload(target, item.key)
                stamp = self.output.stamp(item.key)
                target.unlink()
        except Exception as error:  # every store has its own
            return f"{item.source}: {self.output.address(item.key)} cannot be written ({reason_of(error)})"
        if stamp is None:
            return f"{item.source}: {self.output.address(item.key)} is not there after it was written"
        own = self.settings.config
        return Entry(item.key, own, item.stamp.size, item.stamp.mark, digest, stamp.size, stamp.mark, made)


def fetched(source: str, to: Path | None) -> Path:
    """A local file as it is, another copied to `to`."""
    if is_local(source):
        return Path(local_path(source))
    assert to is not None
    store, path = open_store(source)
    store.get_file(path, str(to))
    return to


def _line(error: Exception, source: str, *paths: Path) -> str:
    """A failure's one line, which names the picture as the user knows it."""
    if isinstance(error, MemoryError):
        return f"{source}: out of memory; a smaller --tile needs less"
    if not isinstance(error, UserError):
        return f"{source}: cannot be upscaled ({reason_of(error)})"
    line = " ".join(str(error).split())
    for path in paths:
        line = line.replace(str(path), source)
    return line if source in line else f"{source}: {line}"
