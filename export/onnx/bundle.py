"""Write an OnnxBundle: a graph a part, each proved against the module it came from."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.manifest import atomic_folder
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, chain_multiple
from passionsr_trt.export.model.devices import HOST, on_device, working_on
from passionsr_trt.export.model.hooks import attached
from passionsr_trt.export.model.part import Model, Part, Tensors, proof_size, smooth_sources
from passionsr_trt.export.model.proof import prove, relative_error
from passionsr_trt.export.onnx.alike import Traced
from passionsr_trt.export.onnx.overflow import keep_within, pictures_to_measure
from passionsr_trt.export.onnx.stages import Stages
from passionsr_trt.export.onnx.to_onnx import ExportPlan, export_part, run_reference
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.export.quantize.grids import CODES
from passionsr_trt.export.quantize.quantizers import fake_quantizers
from passionsr_trt.export.quantize.to_format import to_format
from passionsr_trt.export.quantize.values import PartQuant
from torch import Tensor

HALF_TOLERANCE = {"fp16": 1e-2, "bf16": 8e-2}  # bfloat16 has three bits of mantissa fewer
SLIGHT = 1e-5  # a hundred times what float32 rounds
QDQ_TOLERANCE = 1.5  # the graph's error to float may be this many times fake quantization's


@torch.no_grad()
def export_bundle(
    model: Model,
    calibration: Calibration | None,
    plan: ExportPlan,
    output: Path,
    consume: bool = False,
    device: torch.device = HOST,
) -> OnnxBundle:
    """Export into `output` (atomically). With a calibration its sites are QDQ, in codes of the plan's format;
    without it all is float.

    consume: weights of the model are let go as soon as they are written; it is useless afterwards.
    device: where a part is folded, proved and run to compare with; it is traced on the host.
    """
    if consume:
        model.forget_reference()
    scales = None if calibration is None else to_format(calibration, model.parts, CODES[plan.format])
    with working_on(device, model.parts):
        overlap = model.overlap()
    infos, multiple = list[PartInfo](), chain_multiple(model.parts)
    lines: list[str] = []
    kinds = Counter(type(part.module) for part in model.parts)
    traced: dict[type, list[Traced]] = {kind: [] for kind, count in kinds.items() if count > 1}
    tensors = on_device(_proof_sources(model, plan, multiple), device)
    size = None if plan.dynamic else plan.size
    measured = pictures_to_measure(model, plan.photos, size) if plan.precision == "fp16" else []
    with atomic_folder(output, "onnx-bundle") as folder:
        with Stages(len(model.parts)) as stages:
            for index, part in enumerate(model.parts):
                stages.begin(part.name)
                stages.enter("folding")
                path = folder / f"{part.name}.onnx"
                with working_on(device, [part]):
                    quant = PartQuant() if scales is None else fold(part, scales.of_part(part), tensors)
                    info = part.info(path.name, tensors, quant.sites)
                    infos.append(replace(info, format=plan.format if quant.sites else plan.precision))
                    reference, allowed = expected_result(part, quant, tensors, plan)
                needed = storages(model.parts[index + 1 :]) if consume else ()
                known = traced.get(type(part.module))
                export_part(part, quant.on(HOST), multiple, plan, path, consume, stages, needed, known)
                stages.enter("measuring")
                reached = keep_within(path, infos[-1], measured) if measured else None
                if reached is not None and reached.nodes:
                    infos[-1] = replace(infos[-1], islands=reached.nodes)
                    if known and known[-1].path == path:  # no longer what was traced
                        known.pop()
                lines += [] if reached is None else [reached.line(part.name)]
                stages.enter("proving")
                feed = {tensor.name: tensors[tensor.name].cpu().numpy() for tensor in part.inputs}
                prove(f"{part.name} graph", reference.cpu(), torch.from_numpy(run_reference(path, feed)), allowed)
                tensors[part.output.name] = reference
        bundle = OnnxBundle(
            model=ModelInfo(model.digest, model.family, model.upscale, model.align, size, overlap, plan.name),
            precision=plan.precision,
            spec=None if calibration is None else calibration.spec,
            calibration_key=None if calibration is None else calibration.digest,
            parts=tuple(infos),
            versions={name: importlib.metadata.version(name) for name in ("torch", "onnx", "diffusers")},
            measured_on=plan.measured_on,
        )
        bundle.save(folder)
    for line in lines:
        print(line)
    return replace(bundle, folder=output)


def storages(parts: Sequence[Part]) -> set[int]:
    """Where the weights of some parts lie: steps of a sampler share them."""
    tensors = (tensor for part in parts for tensor in (*part.module.parameters(), *part.module.buffers()))
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.device.type != "meta"}


def _proof_sources(model: Model, plan: ExportPlan, multiple: int) -> dict[str, Tensor]:
    """A smooth seeded picture of the size that the graph takes, or of 64×128 or so where it takes any: neither the
    batch nor the sides that it was traced with, so that nothing of these can have stayed in it."""
    if not plan.dynamic:
        return smooth_sources(model.parts, plan.size, seed=2)
    return smooth_sources(model.parts, proof_size(multiple), seed=2)


def expected_result(part: Part, quant: PartQuant, tensors: Tensors, plan: ExportPlan) -> tuple[Tensor, float]:
    """The float part's output on `tensors`, and how far from it the graph's may be (relative error).

    A float32 graph must agree to 1e-4. A QDQ graph rounds where the float noise of two executors differs,
    and a deep graph carries such a flip on; so its distance to the float part is compared with that of
    fake quantization: at most 1.5 times as far (half precision adds its own). A part that decides by the last bit
    adds three times what a slight change of its inputs does.
    """
    reference = part.run(tensors)
    slack = HALF_TOLERANCE.get(plan.precision, 0.0)
    if part.decides:
        slack += 3 * reaction(part, tensors, reference)
    if not quant.sites:
        return reference, max(slack, 1e-4)
    with attached(fake_quantizers(part, quant)):
        fake = relative_error(reference, part.run(tensors))
    return reference, QDQ_TOLERANCE * fake + 1e-3 + slack


def reaction(part: Part, tensors: Tensors, reference: Tensor) -> float:
    """How far a part's output moves (relative error) where every input is changed by SLIGHT of itself."""
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name, x in ((tensor.name, tensors[tensor.name]) for tensor in part.inputs):
        changed[name] = x * (1 + SLIGHT * torch.randn(x.shape, generator=generator).to(x.device))
    return relative_error(reference, part.run(changed))
