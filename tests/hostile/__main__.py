"""python -m tests.hostile: every case, a table, and the failures in a file."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.hostile import registry
from tests.hostile.bench import prepare
from tests.hostile.harness import FAULTS, Verdict
from tests.hostile.known import known
from tests.hostile.pool import run_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--only", action="append", metavar="CLASS", help="only this class, repeatable")
    parser.add_argument("--match", metavar="TEXT", help="only cases with TEXT in their name")
    parser.add_argument("--limit", type=int, metavar="N", help="N cases of each class, evenly spread")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="file for the failures and their reasons")
    arguments = parser.parse_args()
    chosen = registry.chosen(arguments.only, arguments.limit, arguments.match)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        bench = prepare(Path(folder))
        verdicts = run_all(bench, chosen, arguments.workers)
    failed = [verdict for verdict in verdicts if verdict.fault]
    print(table(verdicts))
    text = "".join(f"{describe(verdict)}\n" for verdict in failed)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 1 if failed else 0


def describe(verdict: Verdict) -> str:
    """Three lines of a failure."""
    reason = known(f"{verdict.kind}/{verdict.name}")
    mark = f" (known: {reason})" if reason else ""
    return f"{verdict.kind}/{verdict.name}: {verdict.fault}{mark}\n  {verdict.reason}\n  $ {verdict.command}"


def table(verdicts: list[Verdict]) -> str:
    """A line a class."""
    names = ["class", "cases", "seconds", "tracebacks", "hangs", "lost", "acceptances", "strays", "other"]
    rows = [names]
    for kind in [*dict.fromkeys(verdict.kind for verdict in verdicts), None]:
        own = [verdict for verdict in verdicts if kind in (verdict.kind, None)]
        faults = Counter(verdict.fault for verdict in own)
        seconds = sum(verdict.seconds for verdict in own)
        counts = [str(faults[fault]) for fault in FAULTS]
        rows.append([kind or "all", str(len(own)), f"{seconds:.0f}", *counts])
    return "\n".join("  ".join(f"{cell:>11}" for cell in row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
