"""A small instance of every architecture that image networks are tested with, random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def _make(package: str, name: str, library: str = "spandrel", **arguments: Any) -> Callable[[], torch.nn.Module]:
    def make() -> torch.nn.Module:
        module = importlib.import_module(f"{library}.architectures.{package}")
        network: torch.nn.Module = getattr(module, name)(**arguments)
        return network

    return make


DIRECT = {"upsampler": "pixelshuffledirect"}
SMALL: dict[str, Callable[[], torch.nn.Module]] = {
    "CRAFT": _make("CRAFT", "CRAFT", embed_dim=48, depths=[1], num_heads=[6], upscale=2),
    "Compact": _make("Compact", "Compact", num_feat=24, num_conv=3, upscale=3),
    "DAT": _make(
        "DAT", "DAT", img_size=64, embed_dim=32, split_size=[8, 16], depth=[3], num_heads=[2],
        expansion_factor=2.0, upscale=2, **DIRECT,
    ),
    "ESRGAN": _make("ESRGAN", "ESRGAN", num_filters=32, num_blocks=1, scale=4),
    "HAT": _make(
        "HAT", "HAT", img_size=64, embed_dim=32, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2.0,
        squeeze_factor=6, conv_scale=0.1, upscale=2, num_feat=16,
    ),
    "OmniSR": _make(
        "OmniSR", "OmniSR", num_feat=32, block_num=1, pe=True, window_size=8, res_num=1, up_scale=2, bias=True
    ),
    "PLKSR": _make("PLKSR", "PLKSR", dim=64, n_blocks=1, kernel_size=9, upscaling_factor=2),
    "RCAN": _make("RCAN", "RCAN", scale=2, n_resgroups=1, n_resblocks=2, n_feats=32, norm=True),
    "SAFMN": _make("SAFMN", "SAFMN", dim=36, n_blocks=2, ffn_scale=2.0, upscaling_factor=4),
    "SPAN": _make("SPAN", "SPAN", num_in_ch=3, num_out_ch=3, feature_channels=24, upscale=4),
    "SwinIR": _make(
        "SwinIR", "SwinIR", img_size=64, embed_dim=24, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2.0,
        upscale=2, **DIRECT,
    ),
}  # fmt: skip


def _real_plksr(**arguments: Any) -> Callable[[], torch.nn.Module]:
    return _make("PLKSR", "RealPLKSR", dim=32, n_blocks=1, kernel_size=9, **arguments)


# further forms of architectures, by names of their own
FORMS = {
    "RealPLKSR": _real_plksr(upscaling_factor=4),
    "RealPLKSR-layer_norm": _real_plksr(upscaling_factor=2, layer_norm=True),
    "RealPLKSR-dysample-x2": _real_plksr(upscaling_factor=2, dysample=True),
    "RealPLKSR-dysample-x4": _real_plksr(upscaling_factor=4, dysample=True),
    "ESRGAN-x16": _make("ESRGAN", "ESRGAN", num_filters=16, num_blocks=1, scale=16),
}
# of spandrel_extra_arches, which users may install and the project does not
EXTRA_FORMS = {
    "SRFormer": _make(
        "SRFormer", "SRFormer", "spandrel_extra_arches", img_size=64, embed_dim=32, depths=[2], num_heads=[2],
        window_size=16, mlp_ratio=2.0, upscale=2, **DIRECT,
    ),
    "Restormer": _make(
        "Restormer", "Restormer", "spandrel_extra_arches", dim=16, num_blocks=[1, 1, 1, 1],
        num_refinement_blocks=1, heads=[1, 2, 2, 4],
    ),
}  # fmt: skip
GREY = {
    "SPAN-grey": _make("SPAN", "SPAN", num_in_ch=1, num_out_ch=1, feature_channels=24, upscale=4, norm=False),
    "SPAN-grey-normed": _make("SPAN", "SPAN", num_in_ch=1, num_out_ch=1, feature_channels=24, upscale=2),
}
REFUSED = {
    "ATD": _make(
        "ATD", "ATD", img_size=64, embed_dim=32, depths=[2], num_heads=[2], window_size=8, category_size=64,
        num_tokens=16, reducted_dim=4, mlp_ratio=2.0, upscale=2, **DIRECT,
    ),
}  # fmt: skip


def write_small(name: str, path: Path) -> Path:
    """A small network's weights as a .safetensors or .pth file."""
    torch.manual_seed(0)
    network = {**SMALL, **FORMS, **EXTRA_FORMS, **GREY, **REFUSED}[name]()
    state = {key: tensor.clone().contiguous() for key, tensor in network.state_dict().items()}
    if path.suffix == ".pth":
        torch.save({"params_ema": state}, path)
    else:
        save_file(state, path)
    return path
