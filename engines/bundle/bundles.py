"""OnnxBundle and EngineBundle: what travels between export, engines and runtime.

A bundle is a folder with a manifest. Loading checks the schema version, then the keys; opening a part's
file checks its SHA-256. The same `ModelInfo` digest ties float and INT8 bundles of one model together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.manifest import checked_file, read_manifest, write_manifest

PART_NAMES = ("vae_encoder", "unet", "vae_decoder")
REFERENCE_SIZE = 512  # pixels a side; SiteInfo.macs counts one image of this size
T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """shape holds ints, or names (`height/8`) where it is dynamic."""

    name: str
    shape: list[Any]
    dtype: str

    def at(self, size: tuple[int, int], batch: int = 1) -> tuple[int, ...]:
        """The shape for images of `size` (height, width): `height/8` → height/8."""
        height, width = size
        values = {"height": height, "width": width, "height/8": height // 8, "width/8": width // 8}
        return tuple({"batch": batch, **values}.get(entry, entry) for entry in self.shape)


@dataclass(frozen=True)
class SiteInfo:
    """One Conv or Linear: macs per 512×512 image; quantized where the graph holds its Q/DQ."""

    name: str
    kind: str
    port: str
    quantized: bool
    macs: int


@dataclass(frozen=True)
class PartInfo:
    """One graph or engine: its main file and its one input and one output."""

    name: str
    file: str
    input: TensorInfo
    output: TensorInfo
    sites: list[SiteInfo] = field(default_factory=list)


@dataclass(frozen=True)
class ModelInfo:
    """What the chain must know of the model. `multiple`: image sides are padded to it."""

    digest: str
    upscale: int
    latent_channels: int
    posterior: str
    multiple: int = 64


@dataclass(frozen=True)
class OnnxBundle:
    """ONNX files of the three parts. spec is None for the float twin."""

    model: ModelInfo
    precision: str
    spec: dict[str, Any] | None
    calibration_key: str | None
    parts: list[PartInfo]
    versions: dict[str, str]
    folder: Path = Path()

    def part(self, name: str) -> PartInfo:
        return find_part(self.parts, name)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one image size (height, width) that the graphs were exported for, with a batch of 1; None: any."""
        height, width = self.part("vae_encoder").input.shape[2:]
        return None if isinstance(height, str) else (height, width)

    def open(self, part: PartInfo) -> Path:
        """The checked path of a part's ONNX file (and of its external data, which lies beside it)."""
        return open_part(self.folder, "onnx-bundle", part)

    def save(self, folder: Path) -> None:
        save_bundle(self, folder, "onnx-bundle")

    @classmethod
    def load(cls, folder: Path) -> OnnxBundle:
        return load_bundle(cls, folder, "onnx-bundle")


@dataclass(frozen=True)
class EngineBundle:
    """Engines of the three parts for one backend. coverage: part → figures read from the built engine.

    key: all that decides what the engines are, the ONNX bundle's digest among it (engines/build.py).
    proof: part → relative error to ONNX Runtime where the engines could be run when they were built.
    """

    model: ModelInfo
    backend: str
    target: dict[str, Any]
    precision: str
    spec: dict[str, Any] | None
    key: dict[str, str]
    parts: list[PartInfo]
    coverage: dict[str, Any]
    proof: dict[str, float]
    versions: dict[str, str]
    folder: Path = Path()

    def part(self, name: str) -> PartInfo:
        return find_part(self.parts, name)

    def open(self, part: PartInfo) -> Path:
        return open_part(self.folder, "engine-bundle", part)

    def digest(self, part: PartInfo) -> str:
        """Of a part's files, as listed."""
        return part_digest(self.folder, "engine-bundle", part)

    def save(self, folder: Path) -> None:
        save_bundle(self, folder, "engine-bundle")

    @property
    def label(self) -> str:
        """`INT8` or the precision, for tables and plots."""
        return "INT8" if self.spec is not None else self.precision.upper()

    @classmethod
    def load(cls, folder: Path) -> EngineBundle:
        return load_bundle(cls, folder, "engine-bundle")


B = TypeVar("B", OnnxBundle, EngineBundle)


def find_part(parts: Sequence[PartInfo], name: str) -> PartInfo:
    for part in parts:
        if part.name == name:
            return part
    raise UserError(f"bundle: no part {name!r}", f"expected {', '.join(PART_NAMES)}")


def open_part(folder: Path, kind: str, part: PartInfo) -> Path:
    """Check the part's file and every file that begins with its name (weights, external data)."""
    manifest = read_manifest(folder, kind)
    for name in _files_of(part, manifest):
        if name != part.file:
            checked_file(folder, manifest, name)
    return checked_file(folder, manifest, part.file)


def part_digest(folder: Path, kind: str, part: PartInfo) -> str:
    """SHA-256 over those that the manifest lists for the part's files."""
    manifest = read_manifest(folder, kind)
    listed = [manifest["files"][name]["sha256"] for name in sorted(_files_of(part, manifest))]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _files_of(part: PartInfo, manifest: dict[str, Any]) -> list[str]:
    """Every listed file that begins with the part's name: graph, weights beside it."""
    stem = Path(part.file).stem
    return [name for name in manifest["files"] if Path(name).name.startswith(f"{stem}.")]


def load_intact(cls: type[B], folder: Path) -> B | None:
    """The bundle in `folder` with every part's files checked, or None where it is missing, foreign or damaged."""
    try:
        bundle = cls.load(folder)
        for part in bundle.parts:
            bundle.open(part)
    except UserError:
        return None
    return bundle


def save_bundle(bundle: Any, folder: Path, kind: str) -> None:
    content = {key: value for key, value in asdict(bundle).items() if key != "folder"}
    write_manifest(folder, {"kind": kind, **content})


def load_bundle(cls: type[T], folder: Path, kind: str) -> T:
    data = read_manifest(folder, kind)
    where = str(folder / "manifest.json")
    content = {key: value for key, value in data.items() if key not in ("schema_version", "kind", "files")}
    content["model"] = decode(ModelInfo, content.get("model"), where)
    parts = [decode(PartInfo, part, where) for part in content.get("parts", [])]
    content["parts"] = [_decode_part(part, where) for part in parts]
    bundle = decode(cls, {**content, "folder": folder}, where)
    if [part.name for part in content["parts"]] != list(PART_NAMES):
        raise UserError(f"{where}: parts are missing", f"expected {', '.join(PART_NAMES)}")
    return bundle


def _decode_part(part: PartInfo, where: str) -> PartInfo:
    values: dict[str, Any] = {**part.__dict__}
    for key in ("input", "output"):
        values[key] = decode(TensorInfo, values[key], where)
    values["sites"] = [decode(SiteInfo, site, where) for site in values["sites"]]
    return PartInfo(**values)


def decode(cls: type[T], data: Any, where: str) -> T:
    """A dataclass from parsed JSON; unknown and missing keys are errors that name the key."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: {cls.__name__} is not an object", "expected one")
    known = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - known):
        raise UserError(f"{where}: unknown key {unknown[0]!r}", f"expected {', '.join(sorted(known))}")
    try:
        return cls(**data)
    except TypeError as error:
        raise UserError(f"{where}: {error}", f"expected a whole {cls.__name__}") from None
