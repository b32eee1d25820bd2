"""OneStepModel: a model folder, checked and loaded.

FOLDER/unet/{config.json, diffusion_pytorch_model.safetensors}     UNet2DConditionModel
FOLDER/vae/{config.json, …}       AutoencoderKL, AutoencoderTiny, or the TAESD family's two files
FOLDER/scheduler/scheduler_config.json                             betas → ᾱ at the timestep
FOLDER/one_step.json              timestep, prediction, scaling_factor, upscale, posterior
FOLDER/text_embedding.safetensors one constant tensor [1, tokens, width]
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from passionsr_trt.engines.bundle.records import decode
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.weights import folder_digest, load_checked, read_json, read_weights
from torch import Tensor

LARGEST = 100_000  # channels, layers, pixels: more is a slip, and never ends
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class OneStep:
    """one_step.json. upscale 1–4; prediction `epsilon`, `v` or `residual`; posterior `mode` or `sample`."""

    timestep: int
    prediction: str
    scaling_factor: float
    upscale: int
    posterior: str = "mode"

    def __post_init__(self) -> None:
        checks = (
            ("timestep", self.timestep >= 0, "a whole number >= 0"),
            ("prediction", self.prediction in ("epsilon", "v", "residual"), "'epsilon', 'v' or 'residual'"),
            ("scaling_factor", 0 < self.scaling_factor < 1e6, "> 0"),
            ("upscale", self.upscale in (1, 2, 3, 4), "1, 2, 3 or 4"),
            ("posterior", self.posterior in ("mode", "sample"), "'mode' or 'sample'"),
        )
        for name, good, expected in checks:
            if not good:
                raise UserError(f"one_step.json: {name} is {getattr(self, name)!r}", f"expected {expected}")


@dataclass
class OneStepModel:
    """The float model as its authors define it; `vae` is a diffusers VAE or the two TAESD state dicts."""

    folder: Path
    one_step: OneStep
    alpha_bar: float
    text: Tensor
    unet: Any
    vae_kind: str
    vae: Any
    latent_channels: int
    digest: str

    @classmethod
    def load(cls, folder: Path) -> OneStepModel:
        """Read and check every file; UserError names what is missing, truncated or of the wrong shape."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", "expected a model folder (unet/, vae/, one_step.json)")
        one_step = decode(OneStep, read_json(folder / "one_step.json"), str(folder / "one_step.json"))
        alpha_bar = _alpha_bar(folder / "scheduler" / "scheduler_config.json", one_step.timestep)
        unet = load_unet(folder / "unet")
        text = _read_text(folder / "text_embedding.safetensors", unet.config.cross_attention_dim)
        kind, vae, channels = load_vae(folder / "vae")
        if channels != unet.config.in_channels or channels != unet.config.out_channels:
            raise UserError(
                f"{folder}: the VAE has {channels} latent channels, the UNet takes {unet.config.in_channels} "
                f"and gives {unet.config.out_channels}",
                "expected the same number",
            )
        return cls(folder, one_step, alpha_bar, text, unet, kind, vae, channels, folder_digest(folder))


def _alpha_bar(path: Path, timestep: int) -> float:
    """ᾱ_t = Π (1 − β), from the scheduler's own betas (float64)."""
    config = read_json(path)
    steps, start, end = (config.get(key) for key in ("num_train_timesteps", "beta_start", "beta_end"))
    schedule = config.get("beta_schedule")
    if not (isinstance(steps, int) and steps is not True and isinstance(start, float) and isinstance(end, float)):
        raise UserError(f"{path}: num_train_timesteps, beta_start or beta_end is missing", "expected all three")
    if not (1 <= steps <= 100_000 and 0 < start <= end < 1):
        raise UserError(f"{path}: {steps} steps with betas from {start} to {end}", "expected 0 < start ≤ end < 1")
    if config.get("rescale_betas_zero_snr") or config.get("trained_betas"):
        raise UserError(f"{path}: rescaled or trained betas", "expected 'linear' or 'scaled_linear' betas")
    if schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    elif schedule == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:
        raise UserError(f"{path}: beta_schedule is {schedule!r}", "expected 'linear' or 'scaled_linear'")
    if timestep >= steps:
        raise UserError(f"one_step.json: timestep is {timestep}", f"expected less than {steps}")
    return float(torch.prod(1 - betas[: timestep + 1]))


def _largest(value: Any) -> float:
    """The largest number in a config, nested lists and objects too."""
    if isinstance(value, dict | list):
        return max(map(_largest, value.values() if isinstance(value, dict) else value), default=0)
    return value if isinstance(value, int | float) else 0


def _from_config(cls: Any, folder: Path) -> Any:
    config = read_json(folder / "config.json")
    if (largest := _largest(config)) > LARGEST:
        raise UserError(f"{folder / 'config.json'}: a value of {largest}", f"expected none over {LARGEST}")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls.from_config(config)
    except Exception as error:  # diffusers raises whatever the first wrong value leads to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder / 'config.json'}: not a {cls.__name__} ({reason})", "expected its config"
        ) from None


def load_unet(folder: Path) -> Any:
    """diffusers' UNet2DConditionModel, float32, every weight checked against its config."""
    from diffusers import UNet2DConditionModel

    unet = _from_config(UNet2DConditionModel, folder)
    load_checked(unet, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return unet


def load_vae(folder: Path) -> tuple[str, Any, int]:
    """Its kind, the diffusers VAE or the TAESD halves' state dicts, and the number of latent channels."""
    config = read_json(folder / "config.json")
    if config.get("family") == "taesd":
        if config.get("downscale") != 8 or config.get("image_range") != [0, 1]:
            raise UserError(f"{folder / 'config.json'}: downscale or image_range", "expected 8 and [0, 1]")
        halves = {half: read_weights(folder / f"{half}.safetensors") for half in ("encoder", "decoder")}
        return "taesd", halves, int(config.get("latent_channels", 4))
    kind = config.get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise UserError(
            f"{folder / 'config.json'}: VAE kind {kind!r}",
            "expected AutoencoderKL, AutoencoderTiny, or family 'taesd'",
        )
    import diffusers

    vae = _from_config(getattr(diffusers, kind), folder)
    load_checked(vae, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return kind, vae, int(vae.config.latent_channels)


def _read_text(path: Path, width: int) -> Tensor:
    tensors = read_weights(path)
    text = tensors.get("text_embedding")
    if text is None or text.dim() != 3 or text.shape[0] != 1 or text.shape[2] != width:
        shape = None if text is None else list(text.shape)
        raise UserError(f"{path}: text_embedding has shape {shape}", f"expected [1, tokens, {width}]")
    return text
