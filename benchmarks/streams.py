"""Pictures a minute of a folder: one stream against several, files read and written as `infer` does it.

    python benchmarks/streams.py --engines demo/out/engines --images demo/photos/lr --threads 2 --streams 1 2

Each number of streams is a process of its own, loaded and warm before anything is timed; in every round each does
the folder once while the others wait. Pictures are cut from --images, so that outputs are --size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.arguments import parse_size, whole
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.files import upscale_all
from passionsr_trt.runtime.core.planning import Options
from PIL import Image, ImageOps
from tqdm import tqdm


def write_pictures(images: Path, folder: Path, size: tuple[int, int], count: int) -> None:
    """`count` pictures of height × width pixels, each cut from one of the images."""
    for index, path in enumerate(islice(cycle(list_images([images])), count)):
        picture = ImageOps.fit(read_picture(path).rgb, size[::-1], Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:04}.png")


def work(engines: Path, threads: int, streams: int) -> None:
    """One contestant: for every line it reads, a folder of pictures, one JSON object."""
    chain = load_engines(engines, threads, streams=streams)
    print("ready", flush=True)
    for line in sys.stdin:
        folder = Path(line.strip())
        pairs = {path: folder / f"out{streams}" / path.name for path in sorted(folder.glob("*.png"))}
        start = time.perf_counter()
        for made in upscale_all(chain, pairs, Options(), streams):
            if made.error is not None:
                raise SystemExit(f"{made.source}: {made.error}")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="a picture, or a folder of them")
    parser.add_argument("--size", type=parse_size, default=(512, 512), metavar="HxW", help="of outputs")
    parser.add_argument("--pictures", type=whole(1), default=16)
    parser.add_argument("--threads", type=whole(0), default=0, help="of every contestant, 0: all")
    parser.add_argument("--streams", type=whole(1), nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=whole(1), default=5)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.engines, arguments.threads, arguments.streams[0])
        return
    upscale = EngineBundle.load(arguments.engines).model.upscale
    small = tuple(side // upscale for side in arguments.size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_pictures(arguments.images, folder, (small[0], small[1]), arguments.pictures)
        workers = {}
        for streams in arguments.streams:
            words = [sys.executable, __file__, "--work", "--engines", str(arguments.engines)]
            words += ["--threads", str(arguments.threads), "--streams", str(streams)]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            workers[streams] = stack.enter_context(process)
            stack.callback(process.terminate)
            answer(process)

        def turn(streams: int) -> dict[str, float]:
            process = workers[streams]
            assert process.stdin is not None
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            found: dict[str, float] = json.loads(answer(process))
            return found

        rates: dict[int, list[float]] = {streams: [] for streams in workers}
        peaks = {streams: turn(streams)["peak_gib"] for streams in workers}
        for index in tqdm(range(arguments.rounds), desc="rounds"):
            first = index % len(workers)
            for streams in [*workers, *workers][first : first + len(workers)]:
                found = turn(streams)
                rates[streams].append(60 * arguments.pictures / found["seconds"])
                peaks[streams] = found["peak_gib"]
        outputs = [sorted((folder / f"out{streams}").iterdir()) for streams in workers]
        same = all(len({path.read_bytes() for path in group}) == 1 for group in zip(*outputs, strict=True))
    for streams, rounds in rates.items():
        ratio = float(np.median(rounds) / np.median(rates[arguments.streams[0]]))
        print(
            f"{streams} streams: {np.median(rounds):7.1f} pictures a minute, {ratio:.2f}× the first; "
            f"{peaks[streams]:.2f} GiB at its peak"
        )
    print("the outputs are equal to the byte" if same else "the outputs differ")


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("error: a contestant ended; what it said stands above")
    return line


if __name__ == "__main__":
    main()
