"""Ray: a cluster here or elsewhere, its words kept off the terminal, some pictures at a time to workers."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TextIO

from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.runtime.apps.batch.inputs import Item
from passionsr_trt.runtime.apps.batch.ledger import Stamp
from passionsr_trt.runtime.apps.batch.worker import Outcome, Settings, Worker

GroupOutcomes = tuple[list[Outcome], str]  # of a group, and its file of the ledger
OBJECTS = 80 << 20  # bytes, the least that Ray takes: only names travel, never pictures


@dataclass(frozen=True)
class Pool:
    """workers: how many; threads: CPU threads of each; gpus: of each; group: pictures that one is handed at once.

    address: of a Ray cluster, None: one of this machine alone, which ends with the job.
    """

    workers: int
    threads: int
    gpus: float
    group: int
    address: str | None


class Starts:
    """An actor that outlives the workers: at which pictures they were when they died."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def begin(self, keys: list[str]) -> dict[str, int]:
        """How often each was begun and not finished; those that never were are begun now."""
        before = {key: self.counts[key] for key in keys}
        for key in keys:
            self.counts[key] = max(self.counts[key], 1)
        return before

    def again(self, key: str) -> None:
        self.counts[key] += 1

    def bore(self, key: str) -> None:
        """It was done alone and killed nobody; others of its group may yet."""
        self.counts[key] = 1

    def forget(self, keys: list[str]) -> None:
        for key in keys:
            self.counts.pop(key, None)


class RemoteStarts:
    """`Starts` from a worker."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def begin(self, keys: list[str]) -> dict[str, int]:
        import ray

        counts: dict[str, int] = ray.get(self.actor.begin.remote(keys))
        return counts

    def again(self, key: str) -> None:
        import ray

        ray.get(self.actor.again.remote(key))

    def bore(self, key: str) -> None:
        self.actor.bore.remote(key)

    def forget(self, keys: list[str]) -> None:
        self.actor.forget.remote(keys)


class PoolWorker:
    """What Ray Data makes an actor of: a group of pictures in, what became of them out."""

    def __init__(self, settings: Settings, starts: Any) -> None:
        self.worker, self.starts = Worker(settings), RemoteStarts(starts)

    def __call__(self, table: Any) -> Any:
        """Rows and outcomes travel as JSON: a file's name need not be UTF-8, which Arrow's text is."""
        rows = [json.loads(row) for row in table["row"].to_pylist()]
        items = [Item(row["source"], row["key"], Stamp(row["size"], row["mark"])) for row in rows]
        outcomes, file = self.worker.run(items, [row["note"].encode() for row in rows], self.starts)
        return as_table([json.dumps([astuple(outcome) for outcome in outcomes])], [file])


def as_table(rows: Sequence[str], files: Sequence[str] | None = None) -> Any:
    import pyarrow

    return pyarrow.table({"row": list(rows), **({} if files is None else {"file": list(files)})})


@contextmanager
def quiet() -> Iterator[TextIO]:
    """Ray prints what its processes meet, from C++ too; its logs hold it all. Gives the terminal for our words."""
    sys.stderr.flush()
    with ExitStack() as stack:
        nowhere, kept = stack.enter_context(Path(os.devnull).open("w")), os.dup(2)
        stack.callback(os.close, kept)
        terminal: TextIO = sys.stderr
        if _is_second(sys.stderr):
            terminal = stack.enter_context(open(os.dup(kept), "w", errors="backslashreplace"))  # noqa: PTH123
        stack.callback(os.dup2, kept, 2)
        os.dup2(nowhere.fileno(), 2)
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        yield terminal


def _is_second(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a test's
        return False


@contextmanager
def cluster(pool: Pool) -> Iterator[None]:
    """Joins the cluster or starts one; what was started ends with the context. No telemetry, no dashboard."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    ended = signal.getsignal(signal.SIGTERM)
    own = {} if pool.address else local_cluster(pool)
    try:
        if pool.address not in (None, "auto"):
            knock(pool.address)
        ray.init(pool.address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:
        raise UserError(
            f"{pool.address or 'a local cluster'}: Ray cannot be reached ({reason_of(error)})",
            "expected HOST:PORT, ray://HOST:PORT or auto",
        ) from None
    try:
        with suppress(ValueError):  # Ray took it for itself; only the main thread may have it back
            signal.signal(signal.SIGTERM, ended)
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Raises OSError or ValueError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def local_cluster(pool: Pool) -> dict[str, Any]:
    cores = max(os.cpu_count() or 1, pool.workers * pool.threads)
    return {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECTS}


def machines() -> int:
    """Of the cluster that was joined, at least one."""
    import ray

    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


def rounds(settings: Settings, pool: Pool) -> Any:
    """A function from rows to outcomes, for one round after another.

    Ray Data does not run in a client (ray://): there an actor on the cluster runs it and hands on what comes.
    """
    import ray

    if pool.address is None or not pool.address.startswith("ray://"):
        return Rounds(settings, pool).outcomes
    there: Any = ray.remote(num_cpus=0)(Rounds).remote(settings, pool)

    def outcomes(rows: list[str]) -> Iterator[GroupOutcomes]:
        ray.get(there.begin.remote(rows))
        while (group := ray.get(there.next.remote())) is not None:
            yield group

    return outcomes


class Rounds:
    """Rounds of one job, one after another, by actors of the class `worker`."""

    worker = PoolWorker

    def __init__(self, settings: Settings, pool: Pool) -> None:
        import ray
        from ray.data import DataContext

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        self.settings, self.pool = settings, pool
        self.starts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Starts).remote()
        self.under_way: Iterator[GroupOutcomes] = iter(())

    def begin(self, rows: list[str]) -> None:
        """From afar: a generator does not travel."""
        self.under_way = self.outcomes(rows)

    def next(self) -> GroupOutcomes | None:
        return next(self.under_way, None)

    def outcomes(self, rows: list[str]) -> Iterator[GroupOutcomes]:
        """One round: every row once through the pool; what became of a group as soon as it is finished.

        A block is a group: what a worker is handed, and what another does again where it dies. Ray Data hands out
        no more than two blocks a worker, and takes no more results than are asked for.
        """
        import ray.data

        group, pool = self.pool.group, self.pool
        blocks = [as_table(rows[start : start + group]) for start in range(0, len(rows), group)]
        size = min(pool.workers, len(blocks))
        dataset = ray.data.from_arrow(blocks).map_batches(
            self.worker,
            batch_size=group,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            fn_constructor_kwargs={"settings": self.settings, "starts": self.starts},
            num_cpus=pool.threads,
            num_gpus=pool.gpus or None,
        )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            found: Any = table
            for row, file in zip(found["row"].to_pylist(), found["file"].to_pylist(), strict=True):
                yield [Outcome(*values) for values in json.loads(row)], file
