"""Calibration: the artefact between calibrate and export. safetensors + JSON, content-addressed.

Tensors: `<port>.activation_scale` scalar, `<site>.weight_scale` [rows]; both float32 and positive. With LET also
`<port>.let_scale` [C] > 0 and `<port>.let_shift` [C]; the two above are then those of the transformed tensors.
`<site>.output_gain` [rows] > 0 and `<site>.output_bias` [rows]: what rounding wants made up for.
`<site>.weight_turns`: which codes are not the nearest (export/calibrate/rounding.py), packed four to a byte.
The key is SHA-256 over the model's digest, the spec and the calibration images.
"""

from __future__ import annotations

import hashlib
import json
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
from passionsr_trt.engines.bundle.records import decode
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.export.quantize.formats import INT8, Codes
from passionsr_trt.export.quantize.modes import Mode, in_mode
from passionsr_trt.export.quantize.part import Part, Tensors
from passionsr_trt.export.quantize.proof import prove
from passionsr_trt.export.quantize.quantizer import unpack_turns
from passionsr_trt.export.quantize.sites import NamedSite, group_ports
from passionsr_trt.export.quantize.transform import fold_port
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

KIND, TENSORS = "calibration", "calibration.safetensors"


@dataclass
class Calibration:
    """Ranges of one model under one spec. codes: the format its scales are for; on disk it is INT8."""

    model_digest: str
    spec: QuantSpec
    data_digest: str
    tensors: dict[str, Tensor]
    codes: Codes = INT8

    @property
    def key(self) -> str:
        return calibration_key(self.model_digest, self.spec, self.data_digest)

    @property
    def digest(self) -> str:
        """Of the key and of every tensor: one that was made again is another."""
        found = hashlib.sha256(self.key.encode())
        for name, tensor in sorted(self.tensors.items()):
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write atomically; UserError where the disk refuses."""
        with atomic_folder(folder, KIND) as temporary:
            write_tensors(self.tensors, temporary / TENSORS)
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
        return decode(cls, stated, str(folder / MANIFEST), ready={"tensors": read_tensors(path)})

    def of_part(self, part: Part) -> Calibration:
        """A part's own tensors, on the device that the part is on."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(f"{part.name}.")}
        return replace(self, tensors={name: tensor.to(part.device) for name, tensor in own.items()})

    def apply(self, part: Part, probe: Tensors | None = None) -> int:
        """Give every calibrated site and port of a part its scales; returns how many sites that were.

        With `probe`, tensors for the part in FLOAT mode, LET is folded under proof: FoldError names the port
        after whose fold the float output is no longer the same.
        """
        low, high = self.codes.of_activations(self.spec)
        limit = self.codes.of_weights(self.spec)
        applied: list[NamedSite] = []
        for named in part.sites():
            weight_scale = self.tensors.get(f"{named.name}.weight_scale")
            if weight_scale is None:
                continue
            scale = self.tensors.get(f"{named.port_name}.activation_scale")
            if scale is None or weight_scale.shape != named.site.weight.shape[:1]:
                raise UserError(f"calibration: {named.name} does not fit this model", "expected its own model's")
            if not (torch.all(weight_scale > 0) and scale > 0):
                raise UserError(f"calibration: {named.name} has a scale that is not positive")
            packed = self.tensors.get(f"{named.name}.weight_turns")
            turns = None if packed is None else unpack_turns(packed, named.site.weight.shape)
            if packed is not None and turns is None:
                raise UserError(f"calibration: {named.name}.weight_turns does not fit", "expected its own")
            named.site.set_weight_scale(weight_scale, limit, turns, self.codes)
            named.site.output_gain = self._of_rows(named, "output_gain")
            if named.site.output_gain is not None and not torch.all(named.site.output_gain > 0):
                raise UserError(f"calibration: {named.name} has a gain that is not positive")
            named.site.output_bias = self._of_rows(named, "output_bias")
            named.site.port.set_scale(scale, low, high, self.codes)
            applied.append(named)
        for name, operand in part.operands().items():
            scale = self.tensors.get(f"{name}.activation_scale")
            if scale is not None:
                operand.set_scale(scale, low, high, self.codes)
        self._fold(part, group_ports(applied), probe)
        return len(applied)

    def _of_rows(self, named: NamedSite, what: str) -> Tensor | None:
        """`<site>.what`, a number for each row of a weight; None where there is none."""
        found = self.tensors.get(f"{named.name}.{what}")
        if found is not None and (found.shape != named.site.weight.shape[:1] or not torch.all(found.isfinite())):
            raise UserError(f"calibration: {named.name}.{what} does not fit", "expected one number per row")
        return found

    @torch.no_grad()
    def _fold(self, part: Part, groups: dict[str, list[NamedSite]], probe: Tensors | None) -> None:
        """LET into the weights. An absorber's rows carry their own quantizer along, so scales come first."""
        found = part.absorbers()
        learned = any(f"{port_name}.let_scale" in self.tensors for port_name in groups)
        reference = part.run(probe) if probe is not None and learned else None
        for port_name, sites in groups.items():
            scale = self.tensors.get(f"{port_name}.let_scale")
            shift = self.tensors.get(f"{port_name}.let_shift")
            if scale is None or shift is None:
                continue
            if scale.shape != (sites[0].site.in_channels,) or not torch.all(scale > 0):
                raise UserError(
                    f"calibration: {port_name}.let_scale does not fit", "expected one positive per channel"
                )
            fold_port(sites, found.get(sites[0].site.port), scale.double(), shift.double())
            if probe is not None and reference is not None:
                prove(port_name, reference, part.run(probe))
        for port_name, sites in groups.items():
            anchor = self.tensors.get(f"{port_name}.let_anchor")
            if anchor is not None:
                self._unbias(sites, anchor)

    def _unbias(self, sites: list[NamedSite], anchor: Tensor) -> None:
        """What rounded weights make of an anchored port's shift a·Δ goes into its sites' output biases."""
        for named in sites:
            site = named.site
            assert site.weight_scale is not None and site.port.scale is not None
            with in_mode(site, Mode.FAKE):
                rounded = site.effective_weight()
            moved = (rounded - site.weight).double().flatten(1).sum(dim=1) * anchor * site.port.scale
            own = 0.0 if site.output_bias is None else site.output_bias
            site.output_bias = (own + moved).float()


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
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written ({error})", "expected room on the disk") from None


def calibration_key(model_digest: str, spec: QuantSpec, data_digest: str) -> str:
    """Content address of a calibration: 16 hex digits name its folder in calib_cache/."""
    text = json.dumps([model_digest, spec.to_json(), data_digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
