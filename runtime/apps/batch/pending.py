"""What is to be done of what is there: inputs against the ledger, noted for the workers; and what failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import printable
from passionsr_trt.engines.common.temporaries import sweep
from passionsr_trt.engines.pictures.files import LeftOut
from passionsr_trt.runtime.apps.batch.inputs import Refused, pictures
from passionsr_trt.runtime.apps.batch.ledger import Ledger, Place, Stamp, parse, verdict
from passionsr_trt.runtime.apps.batch.worker import Settings

ROUND = 16_384  # pictures that Ray knows of at once; then the pool is made anew
SHOWN = 10  # failures on the terminal; all are in failed.jsonl
FAILED = "failed.jsonl"


@dataclass
class Pending:
    """count: of pictures in `file`, one row per line; done: left out; refused: have no place in the output."""

    file: Path
    count: int = 0
    done: int = 0
    refused: int = 0
    folders: set[str] = field(default_factory=set)

    def rounds(self) -> Iterator[list[str]]:
        """Rows as JSON, so many as Ray is to know of at once."""
        with self.file.open(encoding="utf-8") as lines:
            while some := list(islice(lines, ROUND)):
                yield some


class Failures:
    """failed.jsonl: of this run alone, a line a picture; on a local disk as they come, elsewhere at the end."""

    def __init__(self, output: Place) -> None:
        self.output, self.count, self.lines = output, 0, [b""]

    def begin(self) -> None:
        self.output.remove(FAILED)

    def add(self, source: str, reason: str, terminal: TextIO | None = None) -> None:
        self.count += 1
        text = json.dumps({"source": source, "reason": reason}, ensure_ascii=False)
        line = text.encode("utf-8", "backslashreplace") + b"\n"  # a name need not be UTF-8
        if self.output.local is not None:
            with self.output.path(FAILED).open("ab") as file:
                file.write(line)
        else:
            self.lines.append(line)
        if self.count <= SHOWN:
            Bar.write(printable(f"error: {reason}"), file=terminal or sys.stderr)

    def save(self) -> None:
        if self.output.local is None and self.count:
            self.output.write(FAILED, b"".join(self.lines))


def list_pending(
    inputs: list[str], lists: list[Path], settings: Settings, ledger: Ledger, file: Path, failed: Failures
) -> Pending:
    """List the inputs, look up each in the ledger, note in `file` what is to be done or looked at."""
    pending, output = Pending(file), ledger.place
    known = ledger.read_gathered()
    failed.begin()
    folder, there = None, dict[str, Stamp]()
    left = LeftOut()
    found = pictures(inputs, lists, output.url, settings.recipe.form, left)
    with (
        file.open("w", encoding="utf-8") as lines,
        Bar(found, desc="listing", unit="picture", leave=False) as items,
    ):
        for item in items:
            if isinstance(item, Refused):
                pending.refused += 1
                failed.add(item.source, item.reason)
                continue
            where, _, name = item.key.rpartition("/")
            if where != folder:
                folder = where
                if where not in pending.folders and output.local is not None:
                    sweep(output.local / where)
                pending.folders.add(where)
                there = output.stamps(where) if known and output.local is None else {}
            line = known.get(item.key, b"")
            stamp = None if not line else output.stamp(item.key) if output.local is not None else there.get(name)
            state = verdict(parse(line) if line else None, settings.config, item.stamp, stamp)
            if state == "done":
                pending.done += 1
                continue
            note = line.decode() if state == "look" else ""
            row = {"source": item.source, "key": item.key, "size": item.stamp.size, "mark": item.stamp.mark}
            lines.write(json.dumps({**row, "note": note}) + "\n")
            pending.count += 1
    if line_left := left.line():
        Bar.write(printable(line_left), file=sys.stderr)
    return pending
