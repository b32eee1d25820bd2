"""build-engines: an ONNX bundle → an EngineBundle for one backend."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle import EngineBundle, OnnxBundle, PartInfo, load_intact
from passionsr_trt.engines.coverage import Coverage
from passionsr_trt.engines.manifest import MANIFEST, atomic_folder, sha256
from tqdm import tqdm

BuildPart = Callable[[OnnxBundle, PartInfo, Path], tuple[str, Coverage]]


def build_engines(
    bundle: OnnxBundle,
    output: Path,
    backend: str,
    build_part: BuildPart,
    target: dict[str, Any],
    prove: Callable[[OnnxBundle], dict[str, float]] | None = None,
) -> EngineBundle:
    """Build the three parts one at a time into `output` (atomically); coverage and proof go into the manifest.

    `prove` runs the built engines where that is possible; None where nothing here can run them.
    """
    parts: list[PartInfo] = []
    coverage: dict[str, Any] = {}
    with atomic_folder(output, "engine-bundle") as folder:
        with tqdm(bundle.parts, desc=f"building for {backend}", unit="engine") as progress:
            for part in progress:
                progress.set_postfix_str(part.name)
                file, figures = build_part(bundle, part, folder)
                parts.append(replace(part, file=file))
                coverage[part.name] = asdict(figures)
        engines = EngineBundle(
            model=bundle.model,
            backend=backend,
            target=target,
            precision=bundle.precision,
            spec=bundle.spec,
            source=sha256(bundle.folder / MANIFEST),
            parts=parts,
            coverage=coverage,
            proof={} if prove is None else prove(bundle),
            versions=versions(),
        )
        engines.save(folder)
    return replace(engines, folder=output)


def reusable(output: Path, bundle: OnnxBundle, backend: str, target: dict[str, Any]) -> bool:
    """True where `output` already holds undamaged engines of exactly this bundle, backend and target."""
    present = load_intact(EngineBundle, output)
    if present is None:
        return False
    same = (present.source, present.backend, present.target, present.versions)
    return same == (sha256(bundle.folder / MANIFEST), backend, target, versions())


def versions() -> dict[str, str]:
    """Versions of everything that decides what an engine is."""
    found = {"python": platform.python_version()}
    for name in ("passionsr-trt", "onnx", "openvino", "tensorrt", "tensorrt-rtx-cu12-bindings", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
