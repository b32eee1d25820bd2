"""Write an OnnxBundle: three graphs, each proved against the model it came from."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.bundles import (
    REFERENCE_SIZE,
    ModelInfo,
    OnnxBundle,
    PartInfo,
    SiteInfo,
    TensorInfo,
)
from passionsr_trt.engines.bundle.manifest import atomic_folder
from passionsr_trt.export.families.stable_diffusion.fold import Parts, posterior_mean
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.onnx.to_onnx import IO_NAMES, ExportPlan, export_part, run_reference
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.proof import prove, relative_error
from passionsr_trt.export.quantize.sites import Mode, named_sites, set_mode
from torch import Tensor, nn
from tqdm import tqdm

PROOF_SIZE = 64
QDQ_TOLERANCE = 1.5  # the graph's error to float may be this many times fake quantization's


@torch.no_grad()
def export_bundle(
    model: OneStepModel,
    parts: Parts,
    calibration: Calibration | None,
    plan: ExportPlan,
    output: Path,
    consume: bool = False,
) -> OnnxBundle:
    """Export into `output` (atomically). With a calibration its sites are QDQ, without it all is float.

    consume: weights of `model` and `parts` are let go as soon as they are written; both are useless afterwards.
    """
    if consume:
        model.unet = model.vae = None
    infos = []
    image = _proof_image(plan)
    with atomic_folder(output, "onnx-bundle") as folder:
        with tqdm(parts.items(), desc="exporting", unit="part") as progress:
            for name, part in progress:
                progress.set_postfix_str(name)
                if calibration is not None:
                    calibration.apply(part, name, image)
                path = folder / f"{name}.onnx"
                infos.append(_part_info(name, path, model, plan, site_infos(part, name, image)))
                reference, allowed = expected_result(part, name, image, plan)
                export_part(part, name, model.latent_channels, plan, path, consume)
                progress.set_postfix_str(f"{name}: proving")
                result = torch.from_numpy(run_reference(path, {IO_NAMES[name][0]: image.numpy()}))
                prove(f"{name} graph", reference, result, allowed)
                image = posterior_mean(part, reference)
        bundle = OnnxBundle(
            model=ModelInfo(
                digest=model.digest,
                upscale=model.one_step.upscale,
                latent_channels=model.latent_channels,
                posterior=model.one_step.posterior,
            ),
            precision=plan.precision,
            spec=None if calibration is None else calibration.spec.to_json(),
            calibration_key=None if calibration is None else calibration.key,
            parts=infos,
            versions={name: importlib.metadata.version(name) for name in ("torch", "onnx", "diffusers")},
        )
        bundle.save(folder)
    return replace(bundle, folder=output)


def _proof_image(plan: ExportPlan) -> Tensor:
    """A smooth seeded image of the size that the graph takes, or two of 64×64 where it takes any."""
    batch, height, width = (2, PROOF_SIZE, PROOF_SIZE) if plan.dynamic else (1, *plan.size)
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic").clamp(-1, 1)


def expected_result(part: nn.Module, name: str, x: Tensor, plan: ExportPlan) -> tuple[Tensor, float]:
    """The float part's output on `x`, and how far from it the graph's may be (relative error).

    A float32 graph must agree to 1e-4. A QDQ graph rounds where the float noise of two executors differs,
    and a deep graph carries such a flip on; so its distance to the float part is compared with that of
    fake quantization: at most 1.5 times as far (half precision adds its own 1e-2).
    """
    set_mode(part, Mode.FLOAT)
    reference = part(x)
    half = 1e-2 if plan.precision == "fp16" else 0.0
    if all(named.site.weight_scale is None for named in named_sites(part, name)):
        return reference, half or 1e-4
    set_mode(part, Mode.FAKE)
    fake = relative_error(reference, part(x))
    set_mode(part, Mode.FLOAT)
    return reference, QDQ_TOLERANCE * fake + 1e-3 + half


def site_infos(part: nn.Module, name: str, x: Tensor) -> list[SiteInfo]:
    """Every site with its MACs at the reference size, counted on `x` and scaled by the area (exact)."""
    counted: dict[str, int] = {}
    handles = []
    named_list = list(named_sites(part, name))
    for named in named_list:

        def hook(module: nn.Module, _args: object, output: Tensor, key: str = named.name) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            counted[key] = output.numel() * weight[0].numel()

        handles.append(named.site.register_forward_hook(hook))
    try:
        part(x)
    finally:
        for handle in handles:
            handle.remove()
    pixels = x.shape[2] * x.shape[3] * (1 if name == "vae_encoder" else 64) * x.shape[0]
    return [
        SiteInfo(
            named.name,
            named.site.kind,
            named.port_name,
            named.site.weight_scale is not None,
            counted.get(named.name, 0) * REFERENCE_SIZE**2 // pixels,
        )
        for named in named_list
    ]


def _part_info(name: str, path: Path, model: OneStepModel, plan: ExportPlan, sites: list[SiteInfo]) -> PartInfo:
    source, result = IO_NAMES[name]
    batch, height, width = ("batch", "height", "width") if plan.dynamic else (1, *plan.size)
    small = (f"{height}/8", f"{width}/8") if plan.dynamic else (plan.size[0] // 8, plan.size[1] // 8)
    pixels = TensorInfo(source, [batch, 3, height, width], "float32")
    latent = [batch, model.latent_channels, *small]
    encoded = list(latent)
    if name == "vae_encoder":
        if model.one_step.posterior == "sample":
            encoded[1] *= 2
        return PartInfo(name, path.name, pixels, TensorInfo(result, encoded, "float32"), sites)
    given = TensorInfo(source, latent, "float32")
    if name == "unet":
        return PartInfo(name, path.name, given, TensorInfo(result, latent, "float32"), sites)
    return PartInfo(name, path.name, given, replace(pixels, name=result), sites)
