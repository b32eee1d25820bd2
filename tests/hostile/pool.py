"""Cases in some processes: one that hangs or dies is replaced, and takes no other case with it."""

from __future__ import annotations

import multiprocessing
import queue
import resource
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from tests.hostile.bench import Bench
from tests.hostile.harness import Case, Verdict, try_case

PATIENCE = 300  # seconds for a case, whatever its own watchdog is stuck at
MEMORY = 12 * 2**30  # bytes of addresses for a process: what reads without an end takes no machine with it
GRACE = 10  # seconds for a process to end


def run_all(bench: Bench, chosen: list[Case], workers: int) -> list[Verdict]:
    """The verdicts, in the order of the cases."""
    waiting: queue.Queue[int] = queue.Queue()
    for index in range(len(chosen)):
        waiting.put(index)
    verdicts: dict[int, Verdict] = {}
    threads = [
        threading.Thread(target=_serve, args=(bench, chosen, waiting, verdicts), daemon=True)
        for _ in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [verdicts[index] for index in range(len(chosen))]


def _serve(bench: Bench, chosen: list[Case], waiting: queue.Queue[int], verdicts: dict[int, Verdict]) -> None:
    """Give case after case to one process, and a new process after each that hangs or dies."""
    process: Any = None
    pipe: Any = None
    while True:
        try:
            index = waiting.get_nowait()
        except queue.Empty:
            break
        case = chosen[index]
        if process is None:
            context = multiprocessing.get_context("spawn")
            pipe, theirs = context.Pipe()
            process = context.Process(target=_work, args=(bench, theirs), daemon=False)
            process.start()
            theirs.close()
            pipe.recv()
        pipe.send((case.kind, case.name))
        try:
            verdicts[index] = (
                pipe.recv() if pipe.poll(PATIENCE) else Verdict(case.kind, case.name, "hang", "beyond help")
            )
        except EOFError:
            process.join()
            died = f"the process died with status {process.exitcode}"
            verdicts[index] = Verdict(case.kind, case.name, "traceback", died)
        if verdicts[index].fault:
            tell(verdicts[index])
        if verdicts[index].fault == "hang" or not process.is_alive():
            process.kill()
            process.join()
            process = None
    if process is not None:
        pipe.send(None)
        process.join(GRACE)
        process.kill()


def tell(verdict: Verdict) -> None:
    print(f"{verdict.kind}/{verdict.name}: {verdict.fault}: {verdict.reason[:400]}", file=sys.stderr, flush=True)


def _work(bench: Bench, pipe: Connection) -> None:
    """The process: takes names of cases, gives verdicts."""
    from tests.hostile import registry

    bench.enter()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found: dict[tuple[str, str], Case] = {}
    pipe.send("ready")
    while (wanted := pipe.recv()) is not None:
        if wanted not in found:
            found |= {(case.kind, case.name): case for case in registry.cases(wanted[0])}
        try:
            verdict = try_case(found[wanted], bench)
        except Exception as error:  # of the suite itself
            import traceback

            verdict = Verdict(*wanted, "other", f"the suite failed: {error!r} {traceback.format_exc()[-600:]}")
        pipe.send(verdict)
    pipe.close()
