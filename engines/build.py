"""build-engines: an ONNX bundle → an EngineBundle for one backend."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from passionsr_trt.engines.bundle.backends import BACKENDS, Backend, Builder, Target
from passionsr_trt.engines.bundle.bundles import Coverage, EngineBundle, OnnxBundle, load_intact
from passionsr_trt.engines.bundle.manifest import MANIFEST, atomic_folder, sha256
from passionsr_trt.engines.bundle.records import encode
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.bar import Bar


def build_engines(bundle: OnnxBundle, output: Path, backend: Backend, builder: Builder) -> EngineBundle:
    """Build the parts one at a time into `output` (atomically); coverage and proof go into the manifest."""
    parts: list[PartInfo] = []
    coverage: dict[str, Coverage] = {}
    with atomic_folder(output, "engine-bundle") as folder:
        with Bar(bundle.parts, desc=f"building for {backend}", unit="engine") as progress:
            for part in progress:
                progress.set_postfix_str(part.name)
                file, figures = builder.build(bundle, part, folder)
                parts.append(replace(part, file=file))
                coverage[part.name] = figures
        engines = EngineBundle(
            model=bundle.model,
            backend=backend,
            target=builder.target,
            precision=bundle.precision,
            spec=bundle.spec,
            key=engine_key(bundle, backend, builder.target),
            parts=tuple(parts),
            coverage=coverage,
            proof=builder.prove(bundle, folder),
            versions=versions(),
        )
        engines.save(folder)
    return replace(engines, folder=output)


MEASURED = ("phases", "blocks")  # a small gain, by a probe that may fall either way: no reason to build again


def engine_key(bundle: OnnxBundle, backend: Backend, target: Target) -> dict[str, str]:
    """Everything that decides what an engine is; equal keys, equal engines."""
    installed = versions()
    return {
        "ONNX bundle": sha256(bundle.folder / MANIFEST),
        "backend": backend.name,
        **{f"{name} version": installed.get(name, "") for name in ("passionsr-trt", backend.package)},
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
    installed = {"python": platform.python_version()}
    for name in ("passionsr-trt", "onnx", *(backend.package for backend in BACKENDS), "torch"):
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed
