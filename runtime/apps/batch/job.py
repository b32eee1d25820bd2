"""batch: list, leave out what is done, hand the rest to the workers, say how it goes."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.errors import UsageError, UserError, printable, reason_of
from passionsr_trt.engines.common.temporaries import PATTERN, sweep, temporary_folder
from passionsr_trt.engines.pictures.files import is_folder
from passionsr_trt.engines.tensorrt.gpu import gpus
from passionsr_trt.runtime.apps.batch.cluster import GroupOutcomes, Pool, cluster, machines, quiet, rounds
from passionsr_trt.runtime.apps.batch.inputs import check_apart
from passionsr_trt.runtime.apps.batch.ledger import MOST_FILES, OWN, Ledger, Place, absolute, is_local, local_path
from passionsr_trt.runtime.apps.batch.pending import FAILED, Failures, Pending, list_pending
from passionsr_trt.runtime.apps.batch.worker import Settings
from passionsr_trt.runtime.apps.infer import Recipe
from passionsr_trt.runtime.backends.packaged import packaged


@dataclass(frozen=True)
class BatchRequest:
    """inputs: pictures and folders, paths or URLs; lists: files of them, one a line; output: such a folder.

    workers, threads of each, gpus of each: None for the default on this machine. group: pictures that a worker is
    handed at once. tries: workers that may die at a picture. address: of a Ray cluster, None: one is started.
    """

    inputs: list[str]
    output: str
    recipe: Recipe
    lists: list[Path] = field(default_factory=list)
    workers: int | None = None
    threads: int | None = None
    gpus: float | None = None
    group: int = 8
    tries: int = 3
    address: str | None = None


def batch(request: BatchRequest) -> int:
    """Make the pictures that are not done yet; 0 where none failed, else 1. What fails is in OUT/failed.jsonl."""
    if not request.inputs and not request.lists:
        raise UsageError("nothing to do", "expected pictures, folders or --list before the output folder")
    check_installed()
    bundle, provider = request.recipe.bundle(), request.recipe.provider
    on_gpu = provider not in (None, "cpu") or (isinstance(bundle, EngineBundle) and bundle.backend.on_gpu)
    pool = pool_for(request, on_gpu)
    output = Place(absolute(request.output))
    for url in map(absolute, request.inputs):  # before anything is made in OUT
        if is_local(url) and is_folder(Path(local_path(url))):
            check_apart(url, output.url)
    settings = settings_of(request, request.recipe.configuration(bundle), pool, output)
    failed = Failures(output)
    with one_job(output), temporary_folder() as scratch:
        ledger = Ledger(output)
        with reached(output):
            ledger.sweep()
            pending = list_pending(
                request.inputs, request.lists, settings, ledger, scratch / "pending.jsonl", failed
            )
        counts: Counter[str] = Counter()
        try:
            if pending.count:
                work(pending, settings, pool, ledger, failed, counts)
        finally:
            failed.save()
            sweep_all(output, pending.folders, patient=pool.address is None and pending.count > 0)
            ledger.sweep()
    before = pending.done + counts["kept"]
    written = (
        f"{counted(counts['done'], 'image')} written to {output.url}" if counts["done"] else "no image written"
    )
    words = f"{written}, {before} were done before, {failed.count} failed"
    print(printable(words))
    if failed.count:
        print(
            printable(f"error: {counted(failed.count, 'image')} failed; see {output.address(FAILED)}"),
            file=sys.stderr,
        )
    return 1 if failed.count else 0


def check_installed() -> None:
    """ModuleNotFoundError for what the work would end at after everything is listed."""
    for name in ("ray", "pyarrow", "fsspec"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def pool_for(request: BatchRequest, on_gpu: bool) -> Pool:
    cores = os.cpu_count() or 1
    share = request.gpus or (1.0 if on_gpu else 0.0)
    workers = request.workers or (max(1, int(len(gpus()) / share)) if share else max(1, cores // 4))
    threads = request.threads or (max(1, cores // workers) if request.address is None else 4)
    return Pool(workers, threads, share, request.group, request.address)


def settings_of(request: BatchRequest, config: str, pool: Pool, output: Place) -> Settings:
    engines = request.recipe.engines
    return Settings(
        recipe=replace(request.recipe, engines=engines if packaged(engines) else Path(absolute(str(engines)))),
        output=output.url,
        config=config,
        threads=pool.threads,
        neighbours=max(1, int(1 / pool.gpus)) if pool.gpus else pool.workers,
        tries=request.tries,
    )


@contextmanager
def one_job(output: Place) -> Iterator[None]:
    """One job at a time in a local folder; a store has no locks."""
    if output.local is None:
        yield
        return
    try:
        (output.local / OWN).mkdir(parents=True, exist_ok=True)
        with FileLock(output.local / OWN / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{output.url}: another batch writes there", "expected one at a time") from None
    except OSError as error:
        reason = f"{error.filename or output.url}: {error.strerror or error}"
        raise UserError(reason, "expected folders that can be read and written") from None


@contextmanager
def reached(output: Place) -> Iterator[None]:
    """UserError for whatever a store's own package raises: no credentials, no network."""
    try:
        yield
    except (UserError, OSError, ModuleNotFoundError):  # told in one line already
        raise
    except Exception as error:
        reason = f"{output.url} or an input cannot be reached ({reason_of(error)})"
        raise UserError(reason, "expected stores that answer") from error


def work(
    pending: Pending, settings: Settings, pool: Pool, ledger: Ledger, failed: Failures, counts: Counter[str]
) -> None:
    """All that is pending, round by round. counts: what became of how many."""
    gathered: list[str] = []
    form = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    with (
        quiet() as terminal,
        Bar(total=pending.count, desc="upscaling", file=terminal, bar_format=form, smoothing=0.05) as progress,
        cluster(pool),
    ):
        if not pool.gpus:
            settings = replace(settings, neighbours=math.ceil(pool.workers / machines()))
        outcomes, begun = rounds(settings, pool), time.monotonic()
        for rows in pending.rounds():
            for found, file in with_our_errors(outcomes(rows)):
                for outcome in found:
                    if outcome.status == "fatal":
                        raise (UsageError if outcome.usage else UserError)(outcome.reason)
                    counts[outcome.status] += 1
                    if outcome.status == "failed":
                        failed.add(outcome.source, outcome.reason, terminal)
                gathered += [file] if file else []
                minutes = (time.monotonic() - begun) / 60
                speed = f"{sum(counts.values()) / minutes:.0f} pictures/min"
                progress.set_postfix_str(f"{speed}, {failed.count} failed", False)
                progress.update(len(found))
            if len(gathered) >= MOST_FILES:
                ledger.gather(gathered)
                gathered.clear()
    if (lost := pending.count - sum(counts.values())) > 0:
        raise UserError(
            f"Ray gave no word of {counted(lost, 'image')}", "expected one of each", "run the same again"
        )


def with_our_errors(groups: Iterator[GroupOutcomes]) -> Iterator[GroupOutcomes]:
    """The same groups; UserError where Ray itself fails."""
    from ray.exceptions import RayError

    try:
        yield from groups
    except RayError as error:
        reason = f"Ray gave up ({reason_of(error)})"
        raise UserError(reason, "expected workers to run", "the same again goes on") from error


def sweep_all(output: Place, folders: set[str], patient: bool) -> None:
    """Remove what workers left that died. patient: some of a cluster that just ended may be dying still."""
    if output.local is None:
        return
    places = [output.local / folder for folder in folders]
    for _ in range(10 if patient else 1):
        for place in places:
            sweep(place)
        if not any(PATTERN.match(path.name) for place in places if place.is_dir() for path in place.iterdir()):
            return
        time.sleep(0.3)
