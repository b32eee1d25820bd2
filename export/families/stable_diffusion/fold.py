"""Build the deployable parts from a OneStepModel: every constant folded, every fold proved.

1. timestep → one bias per ResBlock             proved per ResBlock
2. text embedding → constant K, V               proved per cross-attention
3. attention scale 1/√d → W_q                   proved with 2 and per self-attention
4. x0 formula → gain of the last convolution    proved end to end
5. scaling factor, quant_conv → last convolution of the encoder, first of the decoder; proved end to end

Proof: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 in float32 against the model as its authors define it, or FoldError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.families.stable_diffusion.tiny_vae import TinyDecoder, TinyEncoder
from passionsr_trt.export.families.stable_diffusion.unet import OneStepUNet
from passionsr_trt.export.families.stable_diffusion.vae import KLDecoder, KLEncoder
from passionsr_trt.export.quantize.proof import prove
from torch import Tensor, nn

PART_NAMES = ("vae_encoder", "unet", "vae_decoder")


@dataclass
class Parts:
    """The three deployable parts, in the order of the chain, and the end-to-end errors of their folds."""

    vae_encoder: nn.Module
    unet: nn.Module
    vae_decoder: nn.Module
    errors: dict[str, float]

    def items(self) -> list[tuple[str, nn.Module]]:
        return [(name, getattr(self, name)) for name in PART_NAMES]


@torch.no_grad()
def build_parts(model: OneStepModel) -> Parts:
    """Fold and prove. The parts share the model's weight tensors wherever a fold left them alone."""
    step = model.one_step
    unet = OneStepUNet(model.unet, step.timestep, model.text, model.alpha_bar, step.prediction).eval()
    if model.vae_kind == "taesd" or model.vae_kind == "AutoencoderTiny":
        if step.posterior != "mode":
            raise UserError("one_step.json: posterior 'sample'", "this VAE has no posterior: expected 'mode'")
        halves = model.vae if model.vae_kind == "taesd" else _tiny_halves(model.vae)
        source = str(model.folder / "vae")
        encoder: nn.Module = TinyEncoder(halves["encoder"], step.scaling_factor, f"{source} encoder").eval()
        decoder: nn.Module = TinyDecoder(halves["decoder"], step.scaling_factor, f"{source} decoder").eval()
    else:
        encoder = KLEncoder(model.vae, step.scaling_factor, step.posterior).eval()
        decoder = KLDecoder(model.vae, step.scaling_factor).eval()
    _prove_blocks(model, unet)
    errors = _prove_parts(model, encoder, unet, decoder)
    return Parts(encoder, unet, decoder, errors)


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


def posterior_mean(part: nn.Module, output: Tensor) -> Tensor:
    """What the next part is fed: the mean, where an encoder gives mean and deviation; else the output itself."""
    return output.chunk(2, dim=1)[0] if getattr(part, "posterior", "mode") == "sample" else output


def _prove_parts(model: OneStepModel, encoder: nn.Module, unet: nn.Module, decoder: nn.Module) -> dict[str, float]:
    """Every part end to end on a smooth seeded image of 64×64 pixels, fed by its true predecessor."""
    step = model.one_step
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 2 - 1
    image = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)
    latent = posterior_mean(encoder, encoder(image))
    predicted = model.unet(latent, model.one_step.timestep, encoder_hidden_states=model.text).sample
    root, sigma = model.alpha_bar**0.5, (1 - model.alpha_bar) ** 0.5
    if step.prediction == "epsilon":
        clean = (latent - sigma * predicted) / root
    else:
        clean = root * latent - sigma * predicted
    errors = {"unet": prove("unet", clean, unet(latent))}
    reference_latent, reference_image = _reference_vae(model, image, clean)
    errors["vae_encoder"] = prove("vae_encoder", reference_latent, encoder(image))
    errors["vae_decoder"] = prove("vae_decoder", reference_image, decoder(clean))
    return errors


def _reference_vae(model: OneStepModel, image: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    factor = model.one_step.scaling_factor
    if model.vae_kind == "AutoencoderKL":
        posterior = model.vae.encode(image).latent_dist
        latent = posterior.mean * factor
        if model.one_step.posterior == "sample":
            latent = torch.cat([latent, posterior.std * factor], dim=1)
        return latent, model.vae.decode(clean / factor).sample
    if model.vae_kind == "AutoencoderTiny":
        return model.vae.encode(image).latents * factor, model.vae.decode(clean / factor).sample
    # The TAESD layout has no second implementation to compare with: undo the folds instead.
    plain_encoder = TinyEncoder(model.vae["encoder"], 1.0, "vae encoder")
    plain_decoder = TinyDecoder(model.vae["decoder"], 1.0, "vae decoder")
    return plain_encoder(image) * factor, plain_decoder(clean / factor)
