"""What a path holds where something else was expected, and the commands that lead from it to what was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UserError

MANIFEST = "manifest.json"
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
LOADABLE = "*.safetensors"
QUANTIZED = "quantize.json"  # the notes of `quantize`, in the folder of all its results
HELD = {
    "onnx-bundle": "an ONNX bundle",
    "engine-bundle": "engines",
    "calibration": "a calibration",
    "checkpoint": "a checkpoint",
    "model": "a model folder",
    "pipeline": "a diffusers folder",
    "graph": "one graph for other tools (docs/other-tools.md)",
    "quantized": "what `quantize` made",
}
CALIBRATE, EXPORT, BUILD = (f"passionsr-trt {name}" for name in ("calibrate", "export", "build-engines"))
IMPORT = "passionsr-trt import-model"
TO_BUNDLE = {  # kind → the way to an ONNX bundle, {0}: the path
    "checkpoint": f"`{CALIBRATE} {{0}} --images …`, then `{EXPORT} {{0}} -o …`",
    "model": f"`{CALIBRATE} {{0}} --images …`, then `{EXPORT} {{0}} -o …`",
    "pipeline": f"begin with `{IMPORT} {{0}} -o …`",
    "calibration": f"`{EXPORT} MODEL --calibration {{0}} -o …`",
    "engine-bundle": "give the ONNX bundle that they were built from",
}


@dataclass(frozen=True)
class Kind:
    """name: a key of HELD."""

    name: str
    path: Path

    def __str__(self) -> str:
        return HELD[self.name]

    def way_to(self, wanted: str) -> str:
        """The commands from here to an `onnx-bundle` or an `engine-bundle`; empty where none leads there."""
        if self.name == "quantized":
            return self._way_within(wanted)
        way = TO_BUNDLE.get(self.name, "").format(quoted(self.path))
        if wanted == "onnx-bundle":
            return way
        if wanted == "engine-bundle" and self.name == "onnx-bundle":
            return f"`{BUILD} {quoted(self.path)} -o …`"
        return f"{way}, then `{BUILD}`" if wanted == "engine-bundle" and way else ""

    def _way_within(self, wanted: str) -> str:
        """Of the results of `quantize`."""
        if places := _held_in(self.path, wanted):
            return f"{HELD[wanted]}: {quoted(places[0])}"
        if wanted == "engine-bundle" and (bundles := _held_in(self.path, "onnx-bundle")):
            return f"none is built yet: `{BUILD} {quoted(bundles[0])} -o …`"
        return ""


def _held_in(folder: Path, kind: str) -> list[Path]:
    """Folders in a folder, or in its folder onnx, that hold such a thing; those of a spec first."""
    found = [place.parent for place in sorted((*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"onnx/*/{MANIFEST}")))]
    held = [place for place in found if (what := kind_of(place)) is not None and what.name == kind]
    return sorted(held, key=lambda place: place.name in ("float", "fp16", "bf16"))


def kind_of(path: Path) -> Kind | None:
    """By names and the manifest alone, nothing is read; None where they tell nothing."""
    try:
        name = _of_folder(path) if path.is_dir() else _of_file(path)
    except OSError:
        return None
    return Kind(name, path) if name else None


def _of_file(path: Path) -> str:
    if not path.is_file():
        return ""
    suffix = path.suffix.lower()
    return "graph" if suffix == ".onnx" else "checkpoint" if suffix in CHECKPOINTS else ""


def _of_folder(path: Path) -> str:
    if (path / MANIFEST).is_file():
        try:
            name = read_object(path / MANIFEST, "a manifest").get("kind")
        except UserError:
            return ""
        return name if isinstance(name, str) and name in HELD else ""
    if (path / QUANTIZED).is_file():
        return "quantized"
    if (path / "model_index.json").is_file():
        return "pipeline"
    return "model" if any(path.glob(LOADABLE)) or any(path.glob(f"*/{LOADABLE}")) else ""


def quoted(path: Path) -> str:
    """A path as a shell takes it; double quotes hold in every one."""
    text = str(path)
    return text if re.fullmatch(r"[\w./:\\~+@%=-]+", text) else f'"{text}"'
