"""Build the deployable parts from a OneStepModel: every constant folded, every fold proved.

1. timestep → one bias per ResBlock             proved per ResBlock
2. text embedding → constant K, V               proved per cross-attention
3. attention scale 1/√d → W_q                   proved with 2 and per self-attention
4. x0 formula → gain of the last convolution    proved end to end
5. scaling factor, quant_conv → last convolution of the encoder, first of the decoder; proved end to end

Proof: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 in float32 against the model as its authors define it, or FoldError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from passionsr_trt.engines.bundle.wiring import TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.autoencoder import AUTOENCODER_ABSORB
from passionsr_trt.export.families.blocks import Downsample, ResBlock, SpatialSelfAttention, Upsample
from passionsr_trt.export.families.stable_diffusion.blocks import SpatialTransformer
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.families.stable_diffusion.tiny_vae import TinyBlock, TinyDecoder, TinyEncoder
from passionsr_trt.export.families.stable_diffusion.unet import OneStepUNet
from passionsr_trt.export.families.stable_diffusion.vae import KLDecoder, KLEncoder
from passionsr_trt.export.model.absorb import Absorb, Into
from passionsr_trt.export.model.part import Model, Part, Tensors, smooth_sources
from passionsr_trt.export.model.proof import prove
from torch import Tensor, nn

NAME = "stable-diffusion"
STRIDE = 8  # pixels that a latent position stands for
UNET_MULTIPLE = 64  # the UNet halves the latent three times
BLOCKS = (ResBlock, SpatialTransformer, SpatialSelfAttention, TinyBlock, Upsample, Downsample)
UNET_ABSORB = (
    Absorb("attn1.to_q", "norm1"),
    Absorb("attn2.to_q", "norm2"),
    Absorb("ff.proj", "norm3"),
    Absorb("proj_in", "norm"),
    Absorb("attn1.to_out.0", "attn1.to_v", Into.ROWS),
    Absorb("attn2.to_out.0", "attn2", Into.VALUE),
    Absorb("ff.out", "ff.proj", Into.ROWS, takes_shift=False),
)
TINY_ABSORB = (
    Absorb("conv.1", "conv.0", Into.ROWS, takes_shift=False),
    Absorb("conv.2", "conv.1", Into.ROWS, takes_shift=False),
    Absorb("pool.conv_out", "pool.norm", takes_shift=False),
)


@torch.no_grad()
def build_model(model: OneStepModel) -> Model:
    """Fold, wire and prove. The parts share the model's weight tensors wherever a fold left them alone."""
    step, channels = model.one_step, model.latent_channels
    unet = OneStepUNet(model.unet, step.timestep, model.text, model.alpha_bar, step.prediction).eval()
    encoder, decoder = _vae_halves(model)
    _prove_blocks(model, unet)
    image, latent = TensorInfo("image", 3, 1), TensorInfo("latent", channels, STRIDE)
    clean, result = TensorInfo("clean_latent", channels, STRIDE), TensorInfo("image_out", 3, 1)
    drawn = (TensorInfo("noise", channels, STRIDE),) if step.posterior == "sample" else ()
    vae_absorb = AUTOENCODER_ABSORB if model.vae_kind == "AutoencoderKL" else TINY_ABSORB
    parts = (
        Part("vae_encoder", encoder, (image, *drawn), latent, STRIDE, absorb=vae_absorb, blocks=BLOCKS),
        # bfloat16: the UNet loses nothing by it, the VAE a quarter of a decibel
        Part("unet", unet, (latent,), clean, UNET_MULTIPLE, "bfloat16", UNET_ABSORB, BLOCKS),
        Part("vae_decoder", decoder, (clean,), result, STRIDE, absorb=vae_absorb, blocks=BLOCKS),
    )
    built = Model(NAME, model.digest, step.upscale, "adain", parts, lambda sources: reference(model, sources))
    built.prove(smooth_sources(parts, (64, 64)))
    return built


def _vae_halves(model: OneStepModel) -> tuple[nn.Module, nn.Module]:
    step = model.one_step
    if model.vae_kind == "AutoencoderKL":
        return (
            KLEncoder(model.vae, step.scaling_factor, step.posterior).eval(),
            KLDecoder(model.vae, step.scaling_factor).eval(),
        )
    if step.posterior != "mode":
        raise UserError("one_step.json: posterior 'sample'", "this VAE has no posterior: expected 'mode'")
    halves = model.vae if model.vae_kind == "taesd" else _tiny_halves(model.vae)
    source = str(model.folder / "vae")
    return (
        TinyEncoder(halves["encoder"], step.scaling_factor, f"{source} encoder").eval(),
        TinyDecoder(halves["decoder"], step.scaling_factor, f"{source} decoder").eval(),
    )


def _tiny_halves(vae: Any) -> dict[str, dict[str, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for half in ("encoder", "decoder"):
        prefix = f"{half}.layers."
        halves[half] = {
            key.removeprefix(prefix): tensor for key, tensor in vae.state_dict().items() if key.startswith(prefix)
        }
    return halves


def _prove_blocks(model: OneStepModel, unet: OneStepUNet) -> None:
    """Folds 1–3, each block alone on seeded noise [1, C, 8, 8]."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    generator = torch.Generator().manual_seed(0)
    time = model.unet.time_proj(torch.tensor([model.one_step.timestep])).to(torch.float32)
    embedding = model.unet.time_embedding(time)
    twins = dict(unet.named_modules())
    for path, block in model.unet.named_modules():
        if isinstance(block, ResnetBlock2D):
            x = torch.randn(1, block.in_channels, 8, 8, generator=generator)
            prove(f"unet.{path}", block(x, embedding), twins[path](x))
        elif isinstance(block, Attention):
            x = torch.randn(1, 64, block.query_dim, generator=generator)
            text = model.text if path.endswith("attn2") else None
            prove(f"unet.{path}", block(x, text), twins[path](x))


@torch.no_grad()
def reference(model: OneStepModel, sources: Tensors) -> dict[str, Tensor]:
    """Every part's output as the model's authors compute it."""
    encode, denoise, decode = reference_parts(model).values()
    latent = encode(sources["image"], sources.get("noise"))
    clean = denoise(latent)
    return {"latent": latent, "clean_latent": clean, "image_out": decode(clean)}


def reference_parts(model: OneStepModel) -> dict[str, Callable[..., Tensor]]:
    """The parts in diffusers' own modules, no fold: scaling, posterior, x0 formula as their authors write them.

    x0 = (z − σ·ε)/√ᾱ, or √ᾱ·z − σ·v, or z − r.
    """
    step, factor = model.one_step, model.one_step.scaling_factor
    root, sigma = model.alpha_bar**0.5, (1 - model.alpha_bar) ** 0.5

    def encode(image: Tensor, noise: Tensor | None = None) -> Tensor:
        if model.vae_kind == "AutoencoderKL":
            posterior = model.vae.encode(image).latent_dist
            sample = posterior.mean if noise is None else posterior.mean + posterior.std * noise
            return sample * factor
        if model.vae_kind == "AutoencoderTiny":
            return model.vae.encode(image).latents * factor
        # the TAESD layout has no second implementation to compare with: undo the folds instead
        return TinyEncoder(model.vae["encoder"], 1.0, "vae encoder")(image) * factor

    def denoise(latent: Tensor) -> Tensor:
        predicted = model.unet(latent, step.timestep, encoder_hidden_states=model.text).sample
        if step.prediction == "epsilon":
            return (latent - sigma * predicted) / root
        if step.prediction == "residual":
            return latent - predicted
        return root * latent - sigma * predicted

    def decode(clean: Tensor) -> Tensor:
        if model.vae_kind == "taesd":
            return TinyDecoder(model.vae["decoder"], 1.0, "vae decoder")(clean / factor)
        return model.vae.decode(clean / factor).sample

    return {"vae_encoder": encode, "unet": denoise, "vae_decoder": decode}
