"""OnnxBundle and EngineBundle: what travels between export, engines and runtime.

A bundle is a folder with a manifest. Loading checks the schema version, then the keys, then the wiring; opening a
part's file checks its SHA-256. The same `ModelInfo` digest ties float and INT8 bundles of one model together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from passionsr_trt.engines.bundle.formats import CODE_FORMATS, PRECISIONS
from passionsr_trt.engines.bundle.manifest import MANIFEST, checked_file, read_manifest, write_manifest
from passionsr_trt.engines.bundle.records import decode, encode
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.targets import TARGETS, Target, TensorRTTarget
from passionsr_trt.engines.bundle.wiring import (
    ALIGNMENTS,
    ModelInfo,
    PartInfo,
    Size,
    chain_multiple,
    check_wiring,
    sources_of,
)
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.figures import Choice, Coverage


@dataclass(frozen=True)
class Bundle:
    """A chain's parts, each with a file in `folder`. spec is None for a float twin.

    versions: of everything that made it, for a reader; what decides is in the engines' key.
    """

    model: ModelInfo
    precision: str
    spec: QuantSpec | None
    parts: tuple[PartInfo, ...]
    versions: dict[str, str]
    folder: Path = field(default=Path(), kw_only=True)

    kind = ""

    def part(self, name: str) -> PartInfo:
        for part in self.parts:
            if part.name == name:
                return part
        raise UserError(f"{self.folder}: no part {name!r}", f"expected {', '.join(p.name for p in self.parts)}")

    def open(self, part: PartInfo) -> Path:
        """The checked path of a part's file; so is every listed file that begins with its name (weights)."""
        manifest = read_manifest(self.folder, self.kind)
        for name in _files_of(part, manifest):
            if name != part.file:
                checked_file(self.folder, manifest, name)
        return checked_file(self.folder, manifest, part.file)

    def listed(self, part: PartInfo) -> dict[str, dict[str, Any]]:
        """Every listed file that begins with the part's name, the graph and weights beside it: size and sha256.

        The manifest is read for it: ask once for a part.
        """
        return _files_of(part, read_manifest(self.folder, self.kind))

    def digest(self, part: PartInfo) -> str:
        """SHA-256 over those that the manifest lists for the part's files."""
        digests = [entry["sha256"] for _name, entry in sorted(self.listed(part).items())]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the manifest over the files that are in `folder` already."""
        content = {key.name: encode(getattr(self, key.name)) for key in fields(self) if key.name != "folder"}
        write_manifest(folder, {"kind": self.kind, **content})

    @property
    def label(self) -> str:
        """`INT8`, `FP8`, the precision, or `INT8+FP16` of a chain of several; for tables and plots."""
        return "+".join(dict.fromkeys(part.format.upper() for part in self.parts))


@dataclass(frozen=True)
class OnnxBundle(Bundle):
    """ONNX files of the parts. calibration_key: the calibration's digest, None of a float twin."""

    calibration_key: str | None

    kind = "onnx-bundle"

    @classmethod
    def load(cls, folder: Path) -> OnnxBundle:
        return _load(cls, folder, cls.kind)


@dataclass(frozen=True)
class EngineBundle(Bundle):
    """Engines of the parts for one backend. coverage: part → figures read from the built engine.

    key: all that decides what the engines are, the ONNX bundle's digest among it (engines/build.py).
    proof: part → relative error to ONNX Runtime where the engines could be run when they were built.
    choice: of a chain of several formats.
    """

    backend: str
    target: Target
    key: dict[str, str]
    coverage: dict[str, Coverage]
    proof: dict[str, float]
    choice: Choice | None = None

    kind = "engine-bundle"

    @classmethod
    def load(cls, folder: Path) -> EngineBundle:
        return _load(cls, folder, cls.kind)


B = TypeVar("B", OnnxBundle, EngineBundle)


def load_intact(cls: type[B], folder: Path) -> B | None:
    """The bundle in `folder` with every part's files checked, or None where it is missing, foreign or damaged."""
    try:
        bundle = cls.load(folder)
        for part in bundle.parts:
            bundle.open(part)
    except UserError:
        return None
    return bundle


def check_same_model(first: Bundle, second: Bundle) -> None:
    """Refuse to compare two different models."""
    if first.model.digest != second.model.digest:
        raise UserError(
            f"{second.folder}: made from model {second.model.digest[:12]}",
            f"expected {first.model.digest[:12]}, the other bundle's",
        )


def _files_of(part: PartInfo, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    stem = Path(part.file).stem
    return {name: entry for name, entry in manifest["files"].items() if name.startswith(f"{stem}.")}


def _load(cls: type[B], folder: Path, kind: str) -> B:
    data = read_manifest(folder, kind)
    where = str(folder / MANIFEST)
    content = {key: value for key, value in data.items() if key not in ("schema_version", "kind", "files")}
    target = None
    if cls is EngineBundle:
        backend = content.get("backend")
        if not isinstance(backend, str) or backend not in TARGETS:
            raise UserError(f"{where}: backend is {backend!r}", f"expected one of {', '.join(TARGETS)}")
        target = decode(TARGETS[backend], content.get("target"), f"{where}: target")
    bundle = decode(cls, content, where, ready={"folder": folder, **({"target": target} if target else {})})
    check_wiring(bundle.parts, where)
    _check_ranges(bundle, where)
    return bundle


def _check_ranges(bundle: Bundle, where: str) -> None:
    """UserError for values of the right type that no bundle of ours has."""
    model, multiple = bundle.model, chain_multiple(bundle.parts)
    sources = sources_of(bundle.parts)
    strides = {"image": 1, "lr": model.upscale}
    quantized = any(site.quantized for part in bundle.parts for site in part.sites)
    fitting = all(strides.get(name, tensor.stride) == tensor.stride for name, tensor in sources.items())
    wrong: list[tuple[str, Any, str, bool]] = [
        ("spec", bundle.spec, "one exactly where sites are quantized", quantized == (bundle.spec is not None)),
        ("a part's format", [part.format for part in bundle.parts], ", ".join(CODE_FORMATS), _formats_fit(bundle)),
        ("a source", [str(tensor) for tensor in sources.values()], f"strides {strides}", fitting),
        ("upscale", model.upscale, "1 to 16", 1 <= model.upscale <= 16),
        ("align", model.align, ", ".join(ALIGNMENTS), model.align in ALIGNMENTS),
        ("size", model.size, f"multiples of {multiple}", _is_size(model.size, multiple)),
    ]
    if isinstance(bundle, EngineBundle):
        target = bundle.target
        if isinstance(target, TensorRTTarget):
            sizes = (target.min_size, target.size, target.max_size)
            wrong.append(
                ("sizes", sizes, f"multiples of {multiple}", all(_is_size(size, multiple) for size in sizes))
            )
            wrong.append(("batch", target.batch, "1 to 4096", 1 <= target.batch <= 4096))
        else:
            limit = target.weight_code_limit
            wrong.append(("weight_code_limit", limit, "null, 63 or 127", limit in (None, 63, 127)))
        covered = set(bundle.coverage) == set(part_names(bundle.parts))
        wrong.append(("coverage", list(bundle.coverage), "the parts", covered))
    for name, value, expected, good in wrong:
        if not good:
            raise UserError(f"{where}: {name} is {value!r}", f"expected {expected}")


def _formats_fit(bundle: Bundle) -> bool:
    """A format of codes exactly where there are quantized sites."""
    return all(
        part.format in CODE_FORMATS if any(site.quantized for site in part.sites) else part.format in PRECISIONS
        for part in bundle.parts
    )


def _is_size(size: Size | None, multiple: int) -> bool:
    return size is None or all(0 < side <= 1 << 16 and side % multiple == 0 for side in size)


def part_names(parts: Sequence[PartInfo]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)
