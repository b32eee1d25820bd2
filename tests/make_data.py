"""Make what is committed for tests anew, after a change of manifests or graphs: `python -m tests.make_data`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from tests.conftest import COMMITTED, DEMO, TINY, calibrate_and_export
from tests.helpers import write_model


def main() -> None:
    for path in sorted((DEMO / "calib" / "lr").iterdir())[:4]:
        Image.open(path).crop((48, 48, 80, 80)).save(TINY / path.name)
    with tempfile.TemporaryDirectory() as folder:
        calibrate_and_export(write_model(Path(folder) / "model"), Path(folder))
        for name in ("onnx_fp32", "onnx_int8"):
            shutil.rmtree(COMMITTED / name, ignore_errors=True)
            shutil.copytree(Path(folder) / name, COMMITTED / name)


if __name__ == "__main__":
    main()
