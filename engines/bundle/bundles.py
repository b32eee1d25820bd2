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

from passionsr_trt.engines.bundle.backends import Backend, Check, Target
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, PRECISIONS
from passionsr_trt.engines.bundle.manifest import MANIFEST, checked_file, read_manifest, write_manifest
from passionsr_trt.engines.bundle.records import decode, encode
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import (
    ALIGNMENTS,
    ModelInfo,
    PartInfo,
    chain_multiple,
    check_wiring,
    is_size,
    sources_of,
)
from passionsr_trt.engines.common.errors import UserError

MOST_NAME = 80  # characters of what a model is called


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

    @property
    def title(self) -> str:
        """`Real-ESRGAN general ×4, INT8` of a model that has a name, of another its label; for people."""
        return f"{self.model.name}, {self.label}" if self.model.name else self.label


@dataclass(frozen=True)
class OnnxBundle(Bundle):
    """ONNX files of the parts. calibration_key: the calibration's digest, None of a float twin. measured_on: the
    digest of the user's pictures that half precision was measured on, or empty.
    """

    calibration_key: str | None
    measured_on: str = ""

    kind = "onnx-bundle"

    @classmethod
    def load(cls, folder: Path) -> OnnxBundle:
        return _load(cls, folder, cls.kind)


@dataclass(frozen=True)
class Coverage:
    """sites: that run INT8, or FP8 where that is the part's format, or whose weights alone are in codes / that the
    spec quantizes; macs: their share of all Conv+Linear MACs of the part.

    conversions: layers that do nothing but quantize, dequantize or cast, by the ONNX nodes that they come from.
    bytes_moved: read and written by all kernels (0: the backend does not tell, or sizes are not fixed).
    attention_fused: attentions that are one kernel, of `attention` in the part (0: the backend does not tell).
    activation_bytes: what the part's tensors take at once for a 512×512 image (0: the backend does not tell).
    """

    sites_int8: int
    sites_quantized: int
    macs_share: float
    kernels: dict[str, int] = field(default_factory=dict)
    bytes_moved: int = 0
    float_sites: list[str] = field(default_factory=list)
    conversions: list[str] = field(default_factory=list)
    attention_fused: int = 0
    attention: int = 0
    activation_bytes: int = 0
    sites_fp8: int = 0
    sites_weights: int = 0

    @property
    def sites_running(self) -> int:
        """Sites that run in the part's own format."""
        return self.sites_int8 + self.sites_fp8 + self.sites_weights

    def line(self, part: str) -> str:
        if not self.sites_quantized:
            return f"{part:<12} float, {sum(self.kernels.values())} kernels"
        sites = f"{self.sites_running}/{self.sites_quantized}"
        label = "FP8 sites" if self.sites_fp8 else "8-bit weights at sites" if self.sites_weights else "INT8 sites"
        share = f"{self.macs_share:.1%} of MACs"
        moved = f", {self.bytes_moved / 1e6:.0f} MB moved" if self.bytes_moved else ""
        kernels = sum(self.kernels.values())
        only = f", {len(self.conversions)} of them only convert" if self.conversions else ""
        fused = f", attention fused {self.attention_fused}/{self.attention}" if self.attention else ""
        return f"{part:<12} {label} {sites}, {share}, {kernels} kernels{moved}{only}{fused}"


@dataclass(frozen=True)
class Choice:
    """Why each part is of its format. by: `measured` or `predicted`; gpu: on or for which; seconds: of one run,
    part → format → seconds.
    """

    by: str
    gpu: str
    seconds: dict[str, dict[str, float]]


@dataclass(frozen=True)
class EngineBundle(Bundle):
    """Engines of the parts for one backend. coverage: part → figures read from the built engine.

    key: all that decides what the engines are, the ONNX bundle's digest among it (engines/build.py).
    proof: part → relative error to ONNX Runtime where the engines could be run when they were built.
    choice: of a chain of several formats.
    """

    backend: Backend
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
    ready: dict[str, Any] = {"folder": folder}
    if cls is EngineBundle:
        backend = Backend.from_json(content.get("backend"), f"{where}: backend")
        target = decode(backend.target, content.get("target"), f"{where}: target")
        ready |= {"backend": backend, "target": target}
    bundle = decode(cls, content, where, ready)
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
    checks: list[Check] = [
        ("spec", bundle.spec, "one exactly where sites are quantized", quantized == (bundle.spec is not None)),
        ("a part's format", [part.format for part in bundle.parts], ", ".join(CODE_FORMATS), _formats_fit(bundle)),
        ("a source", [str(tensor) for tensor in sources.values()], f"strides {strides}", fitting),
        ("upscale", model.upscale, "1 to 16", 1 <= model.upscale <= 16),
        ("align", model.align, ", ".join(ALIGNMENTS), model.align in ALIGNMENTS),
        ("name", model.name, f"at most {MOST_NAME} printable characters", is_name(model.name)),
        ("size", model.size, f"multiples of {multiple}", model.size is None or is_size(model.size, multiple)),
    ]
    if isinstance(bundle, EngineBundle):
        covered = set(bundle.coverage) == {part.name for part in bundle.parts}
        checks += [*bundle.target.checks(multiple), ("coverage", list(bundle.coverage), "the parts", covered)]
    for name, value, expected, good in checks:
        if not good:
            raise UserError(f"{where}: {name} is {value!r}", f"expected {expected}")


def _formats_fit(bundle: Bundle) -> bool:
    """A format of codes exactly where there are quantized sites."""
    return all(
        part.format in CODE_FORMATS if any(site.quantized for site in part.sites) else part.format in PRECISIONS
        for part in bundle.parts
    )


def is_name(text: str) -> bool:
    """Can a model be called so, in one line?"""
    return len(text) <= MOST_NAME and text.isprintable()


def part_names(parts: Sequence[PartInfo]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)
