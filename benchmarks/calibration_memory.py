"""Peak memory of learned calibration: a part at a time, with recomputed activations, block by block.

    python benchmarks/calibration_memory.py --model demo/model --images demo/calib/lr

Each in a process of its own, few steps: memory does not depend on their number. `model`: the process with the
model loaded and nothing learned, which every row contains.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from own_commands import own, peak_mib

LOAD = """
import sys
from pathlib import Path
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.calibrate import dqc
model = load_model(Path(sys.argv[1]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=4)
    arguments = parser.parse_args()
    base = peak_mib([sys.executable, "-c", LOAD, str(arguments.model)])
    print(f"{'model':<24}{base:8.0f} MiB")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for name, granularity, extra in (
            ("module", "module", []),
            ("module, --low-memory", "module", ["--low-memory"]),
            ("block", "block", []),
            ("block, --low-memory", "block", ["--low-memory"]),
        ):
            spec = Path(folder) / "spec.json"
            steps = {
                "method": "learned",
                "let_steps": 2,
                "lbq_steps": 2,
                "settle_steps": 2,
                "granularity": granularity,
            }
            spec.write_text(json.dumps(steps))
            words = ["calibrate", arguments.model, "--images", arguments.images, "--limit", arguments.limit]
            words += ["--spec", spec, "--cache", Path(folder) / name, *extra]
            peak = peak_mib(own(*words))
            first = first or peak - base
            print(f"{name:<24}{peak:8.0f} MiB, {peak - base:6.0f} above the model ({(peak - base) / first:.0%})")


if __name__ == "__main__":
    main()
