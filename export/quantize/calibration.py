"""Calibration: the artefact between calibrate and export. safetensors + JSON, content-addressed.

| tensor                     | shape       | of a PortQuant or a SiteQuant (values.py)                        |
| -------------------------- | ----------- | ---------------------------------------------------------------- |
| `<port>.activation_scale`  | scalar      | scale                                                            |
| `<port>.zero_point`        | scalar int32 | zero_point, where it is not 0                                   |
| `<port>.let_scale`         | [C]         | let.scale                                                        |
| `<port>.let_shift`         | [C]         | let.shift                                                        |
| `<site>.weight_scale`      | [O]         | scale                                                            |
| `<site>.rounding_offsets`  | [⌈n/4⌉] uint8 | offsets                                                        |
| `<site>.gain`              | [O]         | gain                                                             |
| `<site>.bias`              | [O]         | bias                                                             |

The key is SHA-256 over the model's digest, the spec and the calibration images; it names the folder in a cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.manifest import (
    MANIFEST,
    atomic_folder,
    checked_file,
    read_manifest,
    write_manifest,
)
from passionsr_trt.engines.bundle.records import decode, read_object
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError, printable, reason_of
from passionsr_trt.export.model.part import Part
from passionsr_trt.export.quantize.grids import Grid
from passionsr_trt.export.quantize.values import Let, PartQuant, PortQuant, SiteQuant
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

KIND, TENSORS = "calibration", "calibration.safetensors"
OF_PORTS = ("activation_scale", "zero_point", "let_scale", "let_shift")
OF_SITES = {"weight_scale": "scale", "rounding_offsets": "offsets", "gain": "gain", "bias": "bias"}


@dataclass(frozen=True)
class Calibration:
    """A model's quantization under one spec. On disk it is INT8's; see to_fp8.py."""

    model_digest: str
    spec: QuantSpec
    data_digest: str
    quant: PartQuant

    @property
    def key(self) -> str:
        return calibration_key(self.model_digest, self.spec, self.data_digest)

    @property
    def digest(self) -> str:
        """Of the key and of every tensor: one that was made again is another."""
        digest = hashlib.sha256(self.key.encode())
        for name, tensor in sorted(tensors_of(self.quant).items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write atomically; UserError where the disk refuses."""
        with atomic_folder(folder, KIND) as temporary:
            write_tensors(tensors_of(self.quant), temporary / TENSORS)
            write_manifest(
                temporary,
                {
                    "kind": KIND,
                    "model_digest": self.model_digest,
                    "data_digest": self.data_digest,
                    "spec": self.spec.to_json(),
                },
            )

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """UserError for a folder that is damaged, or no calibration of ours."""
        manifest = read_manifest(folder, KIND)
        stated = {name: manifest[name] for name in ("model_digest", "data_digest", "spec") if name in manifest}
        path = checked_file(folder, manifest, TENSORS)
        loaded = decode(cls, stated, str(folder / MANIFEST), ready={"quant": quant_of(read_tensors(path))})
        return replace(loaded, quant=replace(loaded.quant, grid=Grid.of(loaded.spec)))

    def of_part(self, part: Part) -> PartQuant:
        """A part's own rows."""
        return self.quant.rows(lambda name: name.startswith(f"{part.name}."))

    def without(self, sites: list[str]) -> Calibration:
        """The calibration with `sites` left float: its spec excludes them, their rows are gone."""
        spec = replace(self.spec, exclude=(*self.spec.exclude, *sites))
        return replace(self, spec=spec, quant=self.quant.without(sites))


def calibration_key(model_digest: str, spec: QuantSpec, data_digest: str) -> str:
    """Content address of a calibration: 16 hex digits name its folder in calib_cache/."""
    text = json.dumps([model_digest, spec.to_json(), data_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tensors_of(quant: PartQuant) -> dict[str, Tensor]:
    """Rows as the file's tensors, on the host."""
    return {name: tensor.detach().cpu() for name, tensor in _named(quant)}


def _named(quant: PartQuant) -> Iterator[tuple[str, Tensor]]:
    for name, port in quant.ports.items():
        yield f"{name}.activation_scale", port.scale
        if port.zero_point:
            yield f"{name}.zero_point", torch.tensor(port.zero_point, dtype=torch.int32, device="cpu")
        if port.let is not None:
            yield f"{name}.let_scale", port.let.scale
            yield f"{name}.let_shift", port.let.shift
    for name, site in quant.sites.items():
        for what, attribute in OF_SITES.items():
            if (value := getattr(site, attribute)) is not None:
                yield f"{name}.{what}", value


def quant_of(tensors: Mapping[str, Tensor]) -> PartQuant:
    """The file's tensors as rows; UserError where a row is incomplete or a name unknown."""
    ports: dict[str, dict[str, Tensor]] = {}
    sites: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _dot, what = key.rpartition(".")
        if what not in OF_PORTS and what not in OF_SITES:
            raise UserError(
                f"calibration: unknown tensor {key!r}", f"expected {', '.join((*OF_PORTS, *OF_SITES))}"
            )
        (ports if what in OF_PORTS else sites).setdefault(name, {})[what] = tensor
    return PartQuant(
        {name: _port(name, row) for name, row in ports.items()},
        {name: _site(name, row) for name, row in sites.items()},
    )


def _port(name: str, row: Mapping[str, Tensor]) -> PortQuant:
    if "activation_scale" not in row or ("let_scale" in row) != ("let_shift" in row):
        raise UserError(f"calibration: the row of port {name} is incomplete", "expected its scale and all of LET")
    let = Let(row["let_scale"], row["let_shift"]) if "let_scale" in row else None
    zero_point = int(row["zero_point"]) if "zero_point" in row else 0
    return PortQuant(row["activation_scale"].reshape(()), zero_point, let)


def _site(name: str, row: Mapping[str, Tensor]) -> SiteQuant:
    if "weight_scale" not in row:
        raise UserError(f"calibration: the row of site {name} is incomplete", "expected its scale")
    return SiteQuant(**{attribute: row[what] for what, attribute in OF_SITES.items() if what in row})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds; UserError where it is none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({reason_of(error)})",
            "expected a calibration's",
            "make it again",
        ) from None


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A safetensors file; UserError where the disk refuses."""
    try:
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, path)
        path.chmod(0o644)  # safetensors' files are their owner's alone
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error})", "expected room on the disk") from None


def find_calibration(cache: Path, model_digest: str) -> Calibration:
    """The one calibration of a model in the cache; where there are several, the caller must choose.

    A folder that cannot be read is passed over, and told where it may have been the one.
    """
    own = {}
    for path in sorted(cache.glob(f"*/{MANIFEST}")):
        try:
            if may_be_of(path, model_digest):
                own[path.parent] = Calibration.load(path.parent)
        except UserError as error:
            print(printable(f"passed over: {error}"), file=sys.stderr)
    if not own:
        raise UserError(f"{cache}: no calibration of this model", "", "run `passionsr-trt calibrate` first")
    if len(own) > 1:
        names = ", ".join(map(str, own))
        raise UserError(f"{cache}: {len(own)} calibrations of this model", f"choose: --calibration ({names})")
    return next(iter(own.values()))


def may_be_of(manifest: Path, model_digest: str) -> bool:
    """Can a manifest be that of a calibration of this model? True too where it does not say.

    UserError where it is no JSON.
    """
    try:
        stated = read_object(manifest, "the manifest of a calibration")
    except FileNotFoundError:
        return False
    model = stated.get("model_digest")
    return stated.get("kind", KIND) == KIND and (model == model_digest or not isinstance(model, str))
