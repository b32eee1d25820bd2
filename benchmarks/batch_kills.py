"""python benchmarks/batch_kills.py ENGINES FOLDER: `batch` on 1,000 small pictures, killed with -9 ten times.

Half of the kills hit the job, half a worker, at random moments; a killed job is run again. 20 of the pictures are
broken. Told at the end: is every output there once, whole and what `infer` makes of it; is anything left half-
written; how many pictures were made twice; memory over time. `--speed` instead: one worker and two.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

BROKEN, MIB = 20, 2**20
COMMAND = [sys.executable, "-m", "passionsr_trt.runtime.main"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path)
    parser.add_argument("folder", type=Path, help="scratch, emptied first")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--side", type=int, default=32, help="pixels of a picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    make(arguments.folder / "in", arguments.pictures, arguments.side, 0 if arguments.speed else BROKEN)
    return speed(arguments) if arguments.speed else kills(arguments)


def make(folder: Path, count: int, side: int, broken: int) -> None:
    """Smooth seeded pictures in ten sub-folders; the last `broken` are cut off."""
    chance = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 10}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(chance.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
        if number >= count - broken:
            path.write_bytes(path.read_bytes()[:100])


class Watch(threading.Thread):
    """Sees outputs appear (a file that is written again is another one) and memory grow, until it is stopped."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.output, self.stopped = output, threading.Event()
        self.job: int | None = None
        self.written: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.memory: list[tuple[float, str, int, int]] = []  # seconds, who, process, bytes
        self.begun = time.monotonic()

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            self.look()
            for who, process in members(self.job):
                try:
                    held = process.memory_info().rss
                except psutil.Error:
                    continue
                self.memory.append((time.monotonic() - self.begun, who, process.pid, held))

    def look(self) -> None:
        for path in self.output.rglob("*.png"):
            try:
                status = path.stat()
            except OSError:
                continue
            if not path.name.startswith("."):
                self.written[path.name].add((status.st_ino, status.st_mtime_ns))


def members(job: int | None) -> list[tuple[str, psutil.Process]]:
    """The job's process and its workers', by Ray's names for them."""
    try:
        driver = psutil.Process(job) if job else None
        below = driver.children(recursive=True) if driver else []
    except psutil.Error:
        return []
    named = [("job", driver)] if driver else []
    for process in below:
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "PoolWorker" in title and "ray::" in title:
            named.append(("worker", process))
    return named


def batch(arguments: argparse.Namespace, *more: str) -> list[str]:
    words = [
        "batch",
        str(arguments.folder / "in"),
        str(arguments.folder / "out"),
        "--engines",
        str(arguments.engines),
    ]
    return [*COMMAND, *words, *more]


def kills(arguments: argparse.Namespace) -> int:
    output, chance = arguments.folder / "out", random.Random(arguments.seed)
    watch = Watch(output)
    watch.start()
    told = (arguments.folder / "log").open("ab")
    command = batch(arguments, "--workers", "2", "--threads", "1")
    job: subprocess.Popen[bytes] | None = None
    hits = {"job": 0, "worker": 0}
    for number in range(arguments.kills):
        if job is None or job.poll() is not None:
            job = subprocess.Popen(command, stdout=told, stderr=told)
            watch.job = job.pid
        wait_for_work(job, watch)
        time.sleep(chance.uniform(0.3, 3))
        who = ("job", "worker")[number % 2]
        victims = [process for role, process in members(job.pid) if role == who]
        if not victims:
            print(f"kill {number}: no {who} left")
            continue
        chance.choice(victims).send_signal(signal.SIGKILL)
        hits[who] += 1
        print(
            f"kill {number}: {who} at {time.monotonic() - watch.begun:.0f} s, {len(watch.written)} outputs",
            flush=True,
        )
        if who == "job":
            job.wait()
    if job is None or job.wait() < 0:
        job = subprocess.Popen(command, stdout=told, stderr=told)
        watch.job = job.pid
    status = job.wait()
    watch.stopped.set()
    watch.join()
    watch.look()
    return report(arguments, watch, status, hits)


def wait_for_work(job: subprocess.Popen[bytes], watch: Watch) -> None:
    """Until pictures come out of this job's workers."""
    before = sum(map(len, watch.written.values()))
    for _ in range(600):
        if job.poll() is not None or (
            sum(map(len, watch.written.values())) > before and len(members(job.pid)) > 2
        ):
            return
        time.sleep(0.1)


def report(arguments: argparse.Namespace, watch: Watch, status: int, hits: dict[str, int]) -> int:
    output, whole = arguments.folder / "out", arguments.pictures - BROKEN
    outputs = [path for path in output.rglob("*.png") if not path.name.startswith(".")]
    wrong = [path.name for path in outputs if not decodes(path)]
    left = [path for path in output.rglob(".passionsr-*") if path.is_file() and "done-" not in path.name]
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    again = sum(len(seen) - 1 for seen in watch.written.values())
    differing = compare(arguments, outputs)
    print(f"kills: {hits}, exit status of the last run: {status} (expected 1)")
    print(
        f"outputs: {len(outputs)} of {whole}, that do not decode: {len(wrong)}, unlike infer's: {differing} of 20"
    )
    print(f"left half-written: {len(left)}; lines in failed.jsonl: {len(failed)} of {BROKEN}")
    print(
        f"made more than once: {again}; most that a kill may cost: 16 (job), 8 (worker) of --group 8, two workers"
    )
    for who in ("job", "worker"):
        table(who, [row for row in watch.memory if row[1] == who])
    right = status == 1 and len(outputs) == whole and not (wrong or left or differing) and len(failed) == BROKEN
    return 0 if right else 1


def table(who: str, rows: list[tuple[float, str, int, int]]) -> None:
    """Memory of the longest-lived process of its kind, in five stretches of its life."""
    lives = defaultdict(list)
    for seconds, _who, process, held in rows:
        lives[process].append((seconds, held))
    if not lives:
        return
    longest = max(lives.values(), key=len)
    start, end = longest[0][0], longest[-1][0]
    cells = []
    for part in range(5):
        low, high = (start + (end - start) * edge / 5 for edge in (part, part + 1))
        inside = [held for seconds, held in longest if low <= seconds <= high]
        cells.append(f"{statistics.median(inside) / MIB:.0f}" if inside else "-")
    peak = max(held for *_, held in rows) / MIB
    print(f"{who}: MiB by fifths of {end - start:.0f} s: {' '.join(cells)}; peak of all {len(lives)}: {peak:.0f}")


def decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def compare(arguments: argparse.Namespace, outputs: list[Path]) -> int:
    """How many of 20 outputs are not what `infer` makes of their inputs."""
    chosen = sorted(outputs)[:: max(1, len(outputs) // 20)][:20]
    inputs = [arguments.folder / "in" / path.relative_to(arguments.folder / "out") for path in chosen]
    other = arguments.folder / "infer"
    words = ["infer", *map(str, inputs), "-o", str(other), "--engines", str(arguments.engines), "--threads", "1"]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True)
    return sum(path.read_bytes() != (other / path.name).read_bytes() for path in chosen)


def speed(arguments: argparse.Namespace) -> int:
    """Pictures a minute over the last three quarters: without the seconds that Ray and the engines start in."""
    for workers, threads in ((1, 1), (2, 1), (1, 2), (2, 2)):
        shutil.rmtree(arguments.folder / "out", ignore_errors=True)
        start = time.monotonic()
        more = ("--workers", str(workers), "--threads", str(threads))
        subprocess.run(batch(arguments, *more), check=True, capture_output=True)
        whole = time.monotonic() - start
        times = sorted(path.stat().st_mtime for path in (arguments.folder / "out").rglob("*.png"))
        times = times[len(times) // 4 :]  # workers begin one after another
        rate = (len(times) - 1) / (times[-1] - times[0]) * 60
        print(
            f"{workers} workers of {threads} threads: {rate:.0f} pictures a minute, {whole:.0f} s in all",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
