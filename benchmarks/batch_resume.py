"""python benchmarks/batch_resume.py ENGINES FOLDER: what `batch` takes to find that all is done.

One picture is upscaled; then as many hard links to it and to its output are made as --pictures says, in folders of
1,000, with a line each in the ledger. The same command again has nothing to do: told are its seconds and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path)
    parser.add_argument("folder", type=Path, help="scratch, emptied first")
    parser.add_argument("--pictures", type=int, default=200_000)
    arguments = parser.parse_args()
    source, output = arguments.folder / "in", arguments.folder / "out"
    shutil.rmtree(arguments.folder, ignore_errors=True)
    source.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(source / "one.png")
    command = [sys.executable, "-m", "passionsr_trt.runtime.main", "batch", str(source), str(output)]
    command += ["--engines", str(arguments.engines)]
    subprocess.run(command, check=True, capture_output=True)
    (ledger,) = (output / ".passionsr-batch").glob("done-*.jsonl")
    line = json.loads(ledger.read_text())
    with ledger.open("w") as file:
        for number in range(arguments.pictures):
            key = f"{number // 1000:05}/{number:07}.png"
            for root in (source, output):
                if number % 1000 == 0:
                    (root / key).parent.mkdir()
                # a file bears 65,000 links at most
                if number % 50_000 == 0:
                    shutil.copy2(root / "one.png", root / f"of{number}.tmp")
                os.link(root / f"of{number // 50_000 * 50_000}.tmp", root / key)
            file.write(json.dumps([key, *line[1:]]) + "\n")
    for root in (source, output):
        (root / "one.png").unlink()
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    held = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{done.stdout.strip()}: {seconds:.1f} s, {held:.0f} MiB at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
