"""What every case starts from, made once: engines of the committed bundles, a good picture and its result."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import COMMITTED, HAS_TORCH

SIZE = (24, 16)
UPSCALE = 2
TOLERANCE = 8  # levels; the small random model makes more of a rounding, and far more of a wrong reading


@dataclass(frozen=True)
class Bench:
    """A folder that holds it all; its parts are looked up by name."""

    root: Path

    @property
    def onnx_int8(self) -> Path:
        """A copy: cases link to its files."""
        return self.root / "onnx_int8"

    @property
    def onnx_fp32(self) -> Path:
        return self.root / "onnx_fp32"

    @property
    def int8(self) -> Path:
        return self.root / "int8"

    @property
    def fp32(self) -> Path:
        return self.root / "fp32"

    @property
    def good(self) -> Path:
        """A picture that nothing is wrong with."""
        return self.root / "good.png"

    @property
    def result(self) -> Path:
        """What the INT8 engines make of it."""
        return self.root / "result.png"

    @property
    def onnx_result(self) -> Path:
        """What the INT8 ONNX bundle makes of it under ONNX Runtime."""
        return self.root / "onnx_result.png"

    @property
    def temporary(self) -> Path:
        """This process's own."""
        return self.root / f"tmp-{os.getpid()}"

    @property
    def model(self) -> Path:
        """A model folder; only where PyTorch is there."""
        return self.root / "model"

    def enter(self) -> None:
        """Make this process keep its caches and temporaries here."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        os.environ["PASSIONSR_CACHE"] = str(self.root / "cache")
        os.environ["TMPDIR"] = str(self.temporary)
        tempfile.tempdir = str(self.temporary)


def prepare(root: Path) -> Bench:
    """Make what is not there yet."""
    bench = Bench(root.resolve())
    bench.enter()
    pattern().save(bench.good)
    for name in ("onnx_int8", "onnx_fp32"):
        shutil.copytree(COMMITTED / name, bench.root / name, dirs_exist_ok=True)
    for output, source in ((bench.int8, bench.onnx_int8), (bench.fp32, bench.onnx_fp32)):
        assert main(["build-engines", str(source), "-o", str(output)]) == 0
    words = ["infer", str(bench.good), "--engines"]
    assert main([*words, str(bench.int8), "-o", str(bench.result)]) == 0
    assert main([*words, str(bench.onnx_int8), "--provider", "cpu", "-o", str(bench.onnx_result)]) == 0
    if HAS_TORCH and not bench.model.exists():
        from tests.helpers import write_model

        write_model(bench.model)
    return bench


def pattern(size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth, coloured RGB picture: no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    channels = 220 * x + 20, 200 * y + 30, 110 + 90 * np.sin(5 * x + 3 * y)
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def difference(found: Path, expected: Path) -> str:
    """How one picture differs from another: in size, or by more than rounding; nothing where they are equal."""
    try:
        with Image.open(found) as first, Image.open(expected) as second:
            if first.size != second.size:
                return f"{found.name} is {first.size}, expected {second.size}"
            pixels = [levels(image) for image in (first, second)]
    except OSError as error:
        return f"{found.name} cannot be read: {error}"
    distance = np.abs(pixels[0] - pixels[1]).mean()
    return f"{found.name} is {distance:.1f} levels off" if distance > TOLERANCE else ""


def levels(image: Image.Image) -> np.ndarray:
    """RGBA [H, W, 4]; Pillow holds 16 bits of grey in a mode that it does not convert."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    return np.asarray(image.convert("RGBA"), np.float32)


def linked_copy(source: Path, target: Path, without: Iterable[str] = ()) -> Path:
    """A folder whose large files are hard links (never write into one: unlink it first)."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        elif path.name not in without:
            try:
                os.link(path, copy)
            except OSError:  # another file system
                shutil.copy2(path, copy)
    return target
