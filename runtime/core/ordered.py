"""Work that overlaps, its results in order: pictures being read, jobs of an executor, files being written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import TypeVar

from passionsr_trt.engines.common.errors import EngineError, UserError

Job = TypeVar("Job")
Ticket = TypeVar("Ticket")
T = TypeVar("T")
FAILURES = (UserError, MemoryError)  # of one picture, which must not lose the others


def ordered(
    jobs: Iterable[Job],
    submit: Callable[[Job], Ticket],
    collect: Callable[[Ticket], T],
    depth: int,
    due: Callable[[deque[Ticket]], bool] = lambda _waiting: False,
) -> Generator[T]:
    """What `collect` gives of each job's ticket, in the jobs' order; at most `depth` jobs are under way.

    A job is asked for when there is room for it. due: is the oldest of those under way to be collected though
    there is room? What `submit` or `collect` raise ends it: where a failure is one job's own, they give it
    (`attempt`).
    However it ends, every job that was submitted is collected, and `jobs`, where it is a generator, is closed.
    """
    waiting: deque[Ticket] = deque()
    try:
        for job in jobs:
            waiting.append(submit(job))
            while waiting and (len(waiting) >= depth or due(waiting)):
                yield collect(waiting.popleft())
        while waiting:
            yield collect(waiting.popleft())
    finally:
        try:
            while waiting:
                with suppress(Exception):  # nobody asks for it any more
                    collect(waiting.popleft())
        finally:
            if isinstance(jobs, Generator):
                jobs.close()


def attempt(work: Callable[[], T]) -> T | Exception:
    """What work gives, or what went wrong with this one picture; anything else is raised."""
    try:
        return work()
    except EngineError:
        raise
    except FAILURES as error:
        return error
