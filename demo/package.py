"""The ready network of the distribution: exported from the demo's model and its committed calibrations.

    python demo/package.py

Both bundles are written anew: for CPUs with VNNI, and with weight codes within ±63 for those without.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from passionsr_trt.runtime.backends.packaged import FULL, HALF, REALESR_GENERAL

MODEL = Path("demo/realesrgan")
CALIBRATIONS = Path("calib_cache")
TO = Path("runtime/networks") / REALESR_GENERAL.name
EXPORT = [sys.executable, "-m", "passionsr_trt.runtime.main", "export", str(MODEL), "--force"]


def main() -> int:
    TO.mkdir(parents=True, exist_ok=True)
    shutil.copy(MODEL / REALESR_GENERAL.licence_file, TO)
    for name, cache in ((FULL, CALIBRATIONS), (HALF, CALIBRATIONS / "no_vnni")):
        words = ["--cache", str(cache), "--name", REALESR_GENERAL.title, "-o", str(TO / name)]
        if status := subprocess.run([*EXPORT, *words], check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
