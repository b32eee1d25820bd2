"""Stable Diffusion as a family: how a folder is known, loaded, and made from published checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.engines.common.arguments import whole
from passionsr_trt.engines.common.errors import UsageError

if TYPE_CHECKING:
    from passionsr_trt.export.model.part import Model
    from torch import Tensor


class StableDiffusion:
    """One-step Stable Diffusion (OSEDiff and its like). PyTorch and diffusers are loaded when a model is."""

    name = "stable-diffusion"
    folder = "unet/, vae/, one_step.json"

    def detect(self, folder: Path) -> bool:
        """By what no other diffusers folder has."""
        return any((folder / name).exists() for name in ("one_step.json", "text_embedding.safetensors"))

    def load(self, folder: Path) -> Model:
        from passionsr_trt.export.families.stable_diffusion.chain import build_model
        from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
        from passionsr_trt.export.families.weights import must_run

        model = OneStepModel.load(folder)
        with must_run(f"{folder}:", "expected configs that fit the weights"):
            return build_model(model)

    def add_arguments(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--text-embedding",
            type=Path,
            help="the constant prompt's embedding, [1, tokens, width] in a .pt or .safetensors file (default: "
            "computed by the base folder's text_encoder/ and tokenizer/)",
        )
        parser.add_argument("--prompt", help="the constant prompt, where it is embedded here (default: empty)")
        parser.add_argument(
            "--lora",
            type=Path,
            help="OSEDiff's osediff.pkl, PassionSR's osediff.ckpt, PiSA-SR's pisa_sr.pkl or HYPIR's HYPIR_sd2.pth",
        )
        parser.add_argument(
            "--config",
            type=Path,
            help="for one file: folder of unet/, vae/, scheduler/ configs (default: Stable Diffusion 2.1's)",
        )
        unless = "(default: as the LoRA's layout tells; without a LoRA 999, epsilon, mode)"
        parser.add_argument("--timestep", type=whole(0), help=f"the one step's {unless}")
        parser.add_argument(
            "--prediction", choices=("epsilon", "v", "residual"), help=f"what the UNet predicts {unless}"
        )
        parser.add_argument(
            "--posterior", choices=("mode", "sample"), help=f"how the VAE encoder gives its latent {unless}"
        )
        parser.add_argument(
            "--upscale", type=int, choices=(1, 2, 3, 4), default=4, help="enlargement before the VAE"
        )

    def hub_files(self, names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
        from passionsr_trt.export.families.stable_diffusion.hub_files import ENCODER, files_of

        files = files_of(names, arguments.text_embedding is not None, arguments.prompt)
        if ENCODER[0] in files:  # said before gigabytes are fetched
            from passionsr_trt.export.families.stable_diffusion.prompt import check_library

            check_library()
        return files

    def _text(self, arguments: argparse.Namespace) -> Tensor:
        """The constant prompt's embedding: a file's, the model folder's own, or computed; UserError otherwise."""
        from passionsr_trt.export.families.stable_diffusion import checkpoints
        from passionsr_trt.export.families.stable_diffusion.hub_files import OWN
        from passionsr_trt.export.families.stable_diffusion.prompt import embedded

        given, prompt, base = arguments.text_embedding, arguments.prompt, arguments.base
        if given is not None and prompt is not None:
            raise UsageError("--text-embedding and --prompt", "expected one of them")
        if given is None and prompt is None and (base / OWN).is_file():
            given = base / OWN
        if given is not None:
            return checkpoints.read_text_embedding(given)
        text = embedded(base, prompt or "")
        print(f"prompt {prompt or ''!r}: embedded by {base}'s text encoder, {list(text.shape)}")
        return text

    def import_model(self, arguments: argparse.Namespace) -> int:
        """LoRA merged, written, read again."""
        from passionsr_trt.export.families.ldm_names import vae_path
        from passionsr_trt.export.families.stable_diffusion import checkpoints, lora
        from passionsr_trt.export.families.stable_diffusion.folder import OneStep, OneStepModel
        from passionsr_trt.export.families.stable_diffusion.ldm_names import unet_path
        from passionsr_trt.export.families.stable_diffusion.unet import check_supported

        if arguments.base is None:
            raise UsageError("import-model", "expected a diffusers folder, a checkpoint, or OWNER/NAME of the hub")
        check_target(arguments.output, "model")
        config = arguments.base if arguments.base.is_dir() else arguments.config or checkpoints.SD21
        text = self._text(arguments)
        unet, vae = checkpoints.load_base(arguments.base, config)
        check_supported(unet.config)
        recipe = lora.OSEDIFF
        if arguments.lora:
            source = str(arguments.lora)
            recipe, found = lora.read_loras(checkpoints.read_checkpoint(arguments.lora), source)
            for adapters in found:
                target = (unet, adapters, unet_path) if adapters.part == "unet" else (vae, adapters, vae_path)
                merged = lora.merge_lora(*target, source)
                del target
                print(f"{adapters.part}: {recipe.name} LoRA merged into {merged} weights")
        step = OneStep(
            recipe.timestep if arguments.timestep is None else arguments.timestep,
            arguments.prediction or recipe.prediction,
            float(vae.config.scaling_factor),
            arguments.upscale,
            arguments.posterior or recipe.posterior,
        )
        with atomic_folder(arguments.output, "model") as folder:
            checkpoints.write_model(folder, unet, vae, config / "scheduler", text, asdict(step))
            del unet, vae
            OneStepModel.load(folder)
        print(f"{arguments.output}: written and read again")
        return 0
