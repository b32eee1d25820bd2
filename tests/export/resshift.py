"""Small models in the layout of SinSR's release, from the generator of the full-size one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from passionsr_trt.runtime.main import main

from tests.conftest import ROOT

SMALL: dict[str, Any] = {
    "channels": 32, "levels": (1, 2), "layers": 1, "embed": 32, "window": 4, "head": 16, "side": 16,
    "vae_channels": 32, "vae_levels": (1, 1, 2), "vae_layers": 1, "codes": 64,
}  # fmt: skip


def generator() -> ModuleType:
    """benchmarks/resshift_model.py."""
    path = ROOT / "benchmarks" / "resshift_model.py"
    spec = importlib.util.spec_from_file_location("resshift_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_small(folder: Path, **sizes: Any) -> tuple[Path, Path]:
    """unet.pth and autoencoder.pth."""
    made = generator()
    files: tuple[Path, Path] = made.write(folder, made.Sizes(**{**SMALL, **sizes}))
    return files


def import_small(folder: Path, steps: int = 1, **sizes: Any) -> Path:
    """A model folder."""
    unet, autoencoder = write_small(folder / "files", **sizes)
    words = ["import-model", "--family", "resshift", "--unet", str(unet), "--autoencoder", str(autoencoder)]
    assert main([*words, "--steps", str(steps), "-o", str(folder / "model")]) == 0
    return folder / "model"
