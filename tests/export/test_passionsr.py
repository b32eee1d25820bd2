"""PassionSR's calibrated checkpoints: the same grids, and a report of what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from passionsr_trt.export.families.stable_diffusion.passionsr import Report, port_quant, read_layer
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.export.model.sites import NamedSite, SiteConv
from passionsr_trt.export.quantize.calibration import Calibration
from passionsr_trt.export.quantize.fold import fold
from passionsr_trt.runtime.main import main
from torch import Tensor, nn

from tests.export.ldm import unet_names, vae_names
from tests.helpers import applied, faked, lone_part


def entries(name: str, weight: Tensor, x: Tensor, split: bool = False) -> dict[str, Tensor]:
    """A layer of theirs that saw x: [B, C, H, W] of a conv, [B, tokens, C] of a linear."""
    is_conv = weight.dim() == 4
    rows = x.transpose(0, 1).flatten(1) if is_conv else x.flatten(0, 1).t()  # [C, n]
    scale = torch.exp(0.5 * torch.randn(len(rows)))
    shift = (rows.amax(1) + rows.amin(1)) / 2 + 0.01 * torch.randn(len(rows))
    seen = (rows - shift[:, None]) / scale[:, None]
    product = weight * scale.reshape(1, -1, *[1] * (weight.dim() - 2))
    half = len(rows) // 2 if is_conv else len(rows)
    result = {
        f"{name}.scale_factor": scale.reshape(1, -1, 1, 1) if is_conv else scale[None],
        f"{name}.offset": shift.reshape(1, -1, 1, 1) if is_conv else -shift[None],
    }
    bounds = [(seen[:half], product[:, :half]), (seen[half:], product[:, half:])] if split and is_conv else []
    for index, (values, weights) in enumerate(bounds or [(seen, product)] * (1 + split)):
        flat = weights.flatten(1)
        for kind, low, high in (
            ("act", values.min(), values.max()),
            ("weight", flat.amin(1), flat.amax(1)),
        ):
            result[f"{name}.{kind}_quantizer_{index}.x_min"] = low
            result[f"{name}.{kind}_quantizer_{index}.x_max"] = high
    return result


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("bits", [8, 6])
def test_the_grid_of_a_convolution_is_theirs(split: bool, bits: int) -> None:
    torch.manual_seed(0)
    weight, x = (
        torch.randn(8, 16, 3, 3),
        torch.rand(2, 16, 12, 12) * torch.linspace(0.1, 4, 16)[:, None, None] - 0.3,
    )
    theirs = entries("l", weight, x, split)
    site = SiteConv(weight, None, pads=1)
    spec, report = QuantSpec(bits_weights=bits, bits_activations=bits, method="learned"), Report()
    layer = read_layer(theirs, "l", weight, Path("file"), report)
    part = lone_part("p", nn.Sequential(site), 16)
    found_quant = port_quant([NamedSite("p.0", "p.0", site)], {"p.0": layer}, spec, report)
    let = found_quant.ports["p.0"].let
    assert let is not None and report.sites == 1
    quant = fold(part, found_quant, {"image": x})

    scale, shift = (theirs[f"l.{name}"] for name in ("scale_factor", "offset"))
    halves = range(2) if split else range(1)
    low, high = (
        torch.cat([theirs[f"l.act_quantizer_{index}.{end}"].expand(16 // len(halves)) for index in halves])
        for end in ("x_min", "x_max")
    )
    low, high = low[:, None, None], high[:, None, None]
    step = (high - low) / (2**bits - 1)
    expected = (torch.round(((x - shift) / scale - low) / step) * step + low) * scale + shift
    delta, gain = let.shift[:, None, None], let.scale[:, None, None]
    top, left, bottom, right = site.port.pads
    with faked(part, quant):
        found = site.port(x)[:, :, top : -bottom or None, left : -right or None] * gain + delta
    wrong = (found - expected).abs() > 1e-4 * (high - low) * scale
    assert wrong.float().mean() < 2e-3, "but for ties, value by value"


def record(module: Any, names: dict[str, str], run: Any) -> dict[str, Tensor]:
    """Checkpoint entries of every Conv and Linear of a diffusers model, from one run."""
    own = dict(module.named_modules())
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in own.items():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            hook = lambda _layer, args, name=name: seen.setdefault(name, args[0].detach())  # noqa: E731
            handles.append(layer.register_forward_pre_hook(hook))
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    result: dict[str, Tensor] = {}
    for old, new in names.items():
        layer = own[new]
        if new in seen and seen[new].dim() in (3, 4):
            weight, x = layer.weight, seen[new]
            if "mid.attn_1" in old:  # 1×1 convolutions with them
                weight, x = weight[:, :, None, None], x.transpose(1, 2)[..., None]
            result |= entries(old, weight, x, split="output_blocks" in old or ".up." in old)
        elif hasattr(layer, "eps"):
            result |= {f"{old}.weight": layer.weight, f"{old}.bias": layer.bias}
    return {f"model.model.{key}": value.detach().clone() for key, value in result.items()}


@pytest.fixture(scope="module")
def files(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Both checkpoints of the small model."""
    folder = tmp_path_factory.mktemp("passionsr")
    model = OneStepModel.load(small_model)
    torch.manual_seed(0)
    image, latent = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 16, 16)
    step = lambda: model.unet(latent, 999, encoder_hidden_states=model.text)  # noqa: E731

    def vae() -> None:
        model.vae.encode(image)
        model.vae.decode(latent / model.one_step.scaling_factor)

    unet_state = record(model.unet, unet_names(model.unet), step)
    unet_state["model.model.middle_block.1.transformer_blocks.0.attn1.act_quantizer_q.x_max"] = torch.tensor(1.0)
    torch.save(unet_state, folder / "unet.pth")
    torch.save(record(model.vae, vae_names(model.vae), vae), folder / "vae.pth")
    return folder / "unet.pth", folder / "vae.pth"


def words(model: Path, files: tuple[Path, Path], cache: Path) -> list[str]:
    given = ["--unet", files[0], "--vae", files[1], "--bits", 8, "--cache", cache]
    return ["import-calibration", *map(str, [model, *given])]


def test_a_calibrated_checkpoint_becomes_a_calibration(
    small_model: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(small_model, files, tmp_path)) == 0
    said = capsys.readouterr().out
    for part in ("sites imported", "wrong sign", "split by tokens", "one range for all", "product of attention"):
        assert part in said, said
    assert "norm that differs" not in said and "stay float" not in said
    (folder,) = tmp_path.iterdir()
    calibration = Calibration.load(folder)
    torch.manual_seed(0)
    latent = torch.randn(1, 4, 16, 16)
    tensors = {"image": torch.rand(1, 3, 64, 64) * 2 - 1, "latent": latent, "clean_latent": latent}
    with torch.no_grad():
        for part in load_model(small_model).parts:
            before = part.run(tensors)
            quant = applied(calibration, part, tensors)
            assert quant.sites, "and every fold is proved"
            with faked(part, quant):
                assert 0 < relative_error(before, part.run(tensors)) < 0.25, part.name


def test_foreign_files_are_refused(
    small_model: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = torch.load(files[0], weights_only=True)
    name = "model.model.middle_block.0.in_layers.2"
    for wrong, message in (
        ({"a": torch.zeros(1)}, "no key starts with 'model.model.'"),
        ({**unet, "model.model.nowhere.scale_factor": torch.ones(1, 4)}, "layer 'nowhere' is not in the model"),
        ({**unet, f"{name}.scale_factor": torch.ones(1, 3, 1, 1)}, "does not fit; expected 64 positive"),
        ({key: value for key, value in unet.items() if key != f"{name}.offset"}, "offset is missing"),
    ):
        torch.save(wrong, tmp_path / "wrong.pth")
        assert main(words(small_model, (tmp_path / "wrong.pth", files[1]), tmp_path / "cache")) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
