"""build-engines: an ONNX bundle → an EngineBundle for one backend."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle, load_intact
from passionsr_trt.engines.bundle.manifest import MANIFEST, atomic_folder, sha256
from passionsr_trt.engines.bundle.records import encode
from passionsr_trt.engines.bundle.targets import Target
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.figures import Coverage
from tqdm import tqdm

BuildPart = Callable[[OnnxBundle, PartInfo, Path], tuple[str, Coverage]]


def build_engines(
    bundle: OnnxBundle,
    output: Path,
    backend: str,
    build_part: BuildPart,
    target: Target,
    prove: Callable[[OnnxBundle, Path], dict[str, float]] | None = None,
) -> EngineBundle:
    """Build the parts one at a time into `output` (atomically); coverage and proof go into the manifest.

    `prove` runs the built engines where that is possible; None where nothing here can run them.
    """
    parts: list[PartInfo] = []
    coverage: dict[str, Coverage] = {}
    with atomic_folder(output, "engine-bundle") as folder:
        with tqdm(bundle.parts, desc=f"building for {backend}", unit="engine") as progress:
            for part in progress:
                progress.set_postfix_str(part.name)
                file, figures = build_part(bundle, part, folder)
                parts.append(replace(part, file=file))
                coverage[part.name] = figures
        engines = EngineBundle(
            model=bundle.model,
            backend=backend,
            target=target,
            precision=bundle.precision,
            spec=bundle.spec,
            key=engine_key(bundle, backend, target),
            parts=tuple(parts),
            coverage=coverage,
            proof={} if prove is None else prove(bundle, folder),
            versions=versions(),
        )
        engines.save(folder)
    return replace(engines, folder=output)


DECISIVE = {
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx-cu12-bindings",),
}
MEASURED = ("phases", "blocks")  # a small gain, by a probe that may fall either way: no reason to build again


def engine_key(bundle: OnnxBundle, backend: str, target: Target) -> dict[str, str]:
    """Everything that decides what an engine is; equal keys, equal engines."""
    found = versions()
    decisive = ("passionsr-trt", *DECISIVE[backend])
    return {
        "ONNX bundle": sha256(bundle.folder / MANIFEST),
        "backend": backend,
        **{f"{name} version": found.get(name, "") for name in decisive},
        **{name.replace("_", " "): str(value) for name, value in encode(target).items()},
    }


def why_build(output: Path, wanted: Mapping[str, str]) -> str | None:
    """Why the engines in `output` will not do, in one phrase; None where they are undamaged and of this key."""
    if not (output / MANIFEST).is_file():
        return "nothing there yet"
    present = load_intact(EngineBundle, output)
    if present is None:
        return "what is there is damaged"
    for name, value in wanted.items():
        if present.key.get(name) != value and name not in MEASURED:
            if name == "ONNX bundle":
                return "the ONNX bundle changed"
            return f"{name} was {present.key.get(name) or 'not stated'}, now {value}"
    return None


def versions() -> dict[str, str]:
    """Versions of everything that decides what an engine is."""
    found = {"python": platform.python_version()}
    for name in ("passionsr-trt", "onnx", "openvino", "tensorrt", "tensorrt-rtx-cu12-bindings", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
