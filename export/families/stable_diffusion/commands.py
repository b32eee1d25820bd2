"""import-model and import-calibration: published checkpoints → model folder, calibration."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from passionsr_trt.engines.bundle.arguments import whole
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.export.cli import CACHE, check_model


def add_import_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "base", type=Path, help="Stable Diffusion: a diffusers folder, or one .safetensors or .ckpt file"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="model folder to write (float32)")
    parser.add_argument(
        "--text-embedding",
        type=Path,
        required=True,
        help="the constant prompt's: [1, tokens, width] in a .pt or .safetensors file",
    )
    parser.add_argument("--lora", type=Path, help="OSEDiff's osediff.pkl, or PassionSR's osediff.ckpt")
    parser.add_argument(
        "--config",
        type=Path,
        help="for one file: folder of unet/, vae/ and scheduler/ configs; Stable Diffusion 2.1's where not given",
    )
    parser.add_argument("--timestep", type=whole(0), default=999, help="the one step's")
    parser.add_argument("--prediction", choices=("epsilon", "v"), default="epsilon", help="what the UNet predicts")
    parser.add_argument("--posterior", choices=("mode", "sample"), default="mode", help="of the VAE encoder")
    parser.add_argument("--upscale", type=int, choices=(1, 2, 3, 4), default=4, help="enlargement before the VAE")
    parser.set_defaults(run=run_import_model)


def run_import_model(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.families.stable_diffusion import checkpoints
    from passionsr_trt.export.families.stable_diffusion.folder import OneStep, OneStepModel
    from passionsr_trt.export.families.stable_diffusion.ldm_names import unet_path, vae_path

    if not arguments.base.exists():
        raise UserError(f"{arguments.base}: not there", "expected a diffusers folder or a checkpoint")
    check_target(arguments.output, "model")
    config = arguments.base if arguments.base.is_dir() else arguments.config or checkpoints.SD21
    text = checkpoints.read_text_embedding(arguments.text_embedding)
    unet, vae = checkpoints.load_base(arguments.base, config)
    if arguments.lora:
        source = str(arguments.lora)
        found = checkpoints.lora_parts(checkpoints.read_checkpoint(arguments.lora), source)
        for name, module, rename in (("unet", unet, unet_path), ("vae", vae, vae_path)):
            if name in found:
                tensors, rank = found[name]
                merged = checkpoints.merge_lora(module, tensors, rank, rename, source)
                print(f"{name}: LoRA merged into {merged} weights")
    step = OneStep(
        arguments.timestep,
        arguments.prediction,
        float(vae.config.scaling_factor),
        arguments.upscale,
        arguments.posterior,
    )
    with atomic_folder(arguments.output, "model") as folder:
        checkpoints.write_model(folder, unet, vae, config / "scheduler", text, asdict(step))
        del unet, vae
        OneStepModel.load(folder)
    print(
        f"{arguments.output}: written and read again; next: passionsr-trt calibrate {arguments.output} --images …"
    )
    return 0


def add_import_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder with the weights that the files were calibrated on")
    parser.add_argument("--unet", type=Path, required=True, help="unet_ckpt_merge_saw_sep.pth")
    parser.add_argument("--vae", type=Path, required=True, help="vae_ckpt_merge_saw_sep.pth")
    parser.add_argument(
        "--bits", type=int, choices=(8, 6), required=True, help="what the files were calibrated for"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where calibrations are kept, by content")
    parser.set_defaults(run=run_import_calibration)


def run_import_calibration(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.families.stable_diffusion.fold import build_parts
    from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
    from passionsr_trt.export.families.stable_diffusion.passionsr import import_calibration

    check_model(arguments.model)
    model = OneStepModel.load(arguments.model)
    calibration, report = import_calibration(
        model, build_parts(model), arguments.unet, arguments.vae, arguments.bits
    )
    folder = arguments.cache / calibration.key
    calibration.save(folder)
    for line in report.lines():
        print(f"  {line}")
    print(f"{folder}: use it with `passionsr-trt export --calibration`")
    return 0
