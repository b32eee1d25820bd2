"""What every case starts from, made once: a small model, its bundles and engines, a picture and its result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import Built

SIZE = (24, 16)
TOLERANCE = 8  # levels; the small random model makes more of a rounding, and far more of a wrong reading


class Bench:
    """A folder that holds it all.

    good: a picture that nothing is wrong with. result, onnx_result: what the INT8 engines and the INT8 ONNX bundle
    make of it. onnx_int8, onnx_fp32: copies, cases link to their files. model: only where PyTorch is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.onnx_int8, self.onnx_fp32 = self.root / "onnx_int8", self.root / "onnx_fp32"
        self.int8, self.fp32, self.model = self.root / "int8", self.root / "fp32", self.root / "model"
        self.good, self.result = self.root / "good.png", self.root / "result.png"
        self.onnx_result = self.root / "onnx_result.png"
        self.temporary = self.root / f"tmp-{os.getpid()}"

    def words(self, line: str) -> list[str]:
        """The words of a command line; $INT8 and such stand for what lies here."""
        names = {"$INT8": self.int8, "$FP32": self.fp32, "$ONNX": self.onnx_int8, "$FLOAT": self.onnx_fp32}
        names |= {"$GOOD": self.good, "$MODEL": self.model}
        parts = (word.partition("/") for word in line.split())
        return [f"{names.get(name, name)}{slash}{rest}" for name, slash, rest in parts]

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        """Make this process keep its caches and temporaries here."""
        self.temporary.mkdir(exist_ok=True)
        patch.setenv("PASSIONSR_CACHE", str(self.root / "cache"))
        patch.setenv("TMPDIR", str(self.temporary))
        patch.setattr("tempfile.tempdir", str(self.temporary))


def prepare(small: Built, model: Path | None, root: Path) -> None:
    bench = Bench(root)
    pattern().save(bench.good)
    for source, target in (
        (small.onnx_int8, bench.onnx_int8), (small.onnx_fp32, bench.onnx_fp32), (small.engines_int8, bench.int8),
        (small.engines_fp32, bench.fp32), *([(model, bench.model)] if model else []),
    ):  # fmt: skip
        shutil.copytree(source, target)
    words = ["infer", str(bench.good), "--no-cache", "--engines"]
    assert main([*words, str(bench.int8), "-o", str(bench.result)]) == 0
    assert main([*words, str(bench.onnx_int8), "--provider", "cpu", "-o", str(bench.onnx_result)]) == 0


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

    def link(path: str, copy: str) -> None:
        try:
            os.link(path, copy)
        except OSError:  # another file system
            shutil.copy2(path, copy)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns(*without))
    return target


def rewrite(path: Path, content: str | bytes) -> None:
    """New content under a name that may be a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
