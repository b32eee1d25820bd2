"""ResShift in one step: the authors' numbers, folds, any size, files that are none, and every command."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.resshift import autoencoder
from passionsr_trt.export.families.resshift.autoencoder import Codebook
from passionsr_trt.export.families.resshift.chain import NAME
from passionsr_trt.export.families.resshift.family import read_model
from passionsr_trt.export.families.resshift.reference import SwinBlock
from passionsr_trt.export.families.resshift.unet import seam_mask
from passionsr_trt.export.model.part import smooth_sources
from passionsr_trt.export.model.proof import TOLERANCE, relative_error
from passionsr_trt.runtime.main import main
from PIL import Image
from torch import Tensor

from tests.conftest import DEMO, TINY, made_once, needs_rtx
from tests.export.resshift import generator, import_small, write_small

GIVEN = os.environ.get("RESSHIFT_SMALL")  # a folder: small_unet.pth, small_vq.pth, small_expected.safetensors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder."""
    return made_once(tmp_path_factory, "resshift", import_small) / "model"


@pytest.mark.skipif(GIVEN is None, reason="RESSHIFT_SMALL names no folder of the authors' numbers")
@torch.no_grad()
def test_the_authors_own_numbers_are_reproduced(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = Path(GIVEN or "")
    expected = load_file(folder / "small_expected.safetensors")
    files = ["--unet", str(folder / "small_unet.pth"), "--autoencoder", str(folder / "small_vq.pth")]
    assert main(["import-model", "--family", NAME, *files, "-o", str(tmp_path / "model")]) == 0
    model, built = read_model(tmp_path / "model"), load_model(tmp_path / "model")
    sources = {name: expected[name] for name in ("lr", "noise")}
    reference, found = model.reference(sources), built.run(sources)
    for name in ("z_y", "x0"):
        assert relative_error(expected[name], reference[name]) <= TOLERANCE
        assert relative_error(expected[name], found[name]) <= TOLERANCE
    decoded = built.part("vq_decoder").run({"x0": expected["x0"]})
    assert psnr(decoded, expected["image"]) >= 60
    codes = built.part("vq_decoder").module.codebook
    flips = int((codes.search(found["x0"]) != codes.search(expected["x0"])).sum())
    print(f"{flips} of {codes.search(found['x0']).numel()} codes differ end to end", end=", ")
    print(f"the picture is {psnr(found['picture'], expected['image']):.1f} dB from theirs")
    assert flips <= 1


def psnr(found: Tensor, expected: Tensor) -> float:
    """dB in the range [−1, 1]."""
    difference = (found.clamp(-1, 1) - expected.clamp(-1, 1)).square().mean()
    return 10 * math.log10(4 / max(float(difference), 1e-20))


@torch.no_grad()
def test_the_parts_are_the_reference_for_any_size_and_batch(model: Path) -> None:
    """Beside the square that every load proves: wide, high, in batches, more noise."""
    built, original = load_model(model), read_model(model)
    assert [part.multiple for part in built.parts] == [16, 32, 16]
    for size, batch in (((64, 160), 1), ((96, 32), 2)):
        sources = smooth_sources(built.parts, size, batch, seed=batch)
        expected = original.reference(sources)
        tensors = {**sources, **expected}
        for part in built.parts[:2]:
            assert relative_error(expected[part.output.name], part.run(tensors)) <= TOLERANCE
        codes = original.quantize(expected["x0"])
        assert relative_error(original.decode(codes), built.parts[2].run({"x0": codes})) <= TOLERANCE


def test_a_shifted_windows_mask_is_the_released_codes() -> None:
    """Which separates, in the last row of windows alone, columns 0–3 from 4–7; not what Swin's would."""
    made = generator()
    state = {
        key.removeprefix("input_blocks.1.1.blocks.1."): value
        for key, value in made.unet(made.Sizes(channels=32, levels=(1,), layers=1, embed=32)).items()
        if key.startswith("input_blocks.1.1.blocks.1.")
    }
    block = SwinBlock(state)
    for height, width in ((64, 64), (16, 40), (24, 8)):
        down, across = height // 8, width // 8
        mask = block.mask(height, width).reshape(down, across, 8, 8, 8, 8)
        assert not mask[:-1].any()
        hidden = mask[-1] != 0
        left = torch.arange(8) < 4
        assert torch.equal(hidden, (left[:, None, None] != left).expand(across, 8, 8, 8, 8))
        own = seam_mask(down, 8)[:, None].expand(-1, across, -1, -1)
        assert torch.equal(own.reshape(-1, 64, 64), block.mask(height, width))


def test_a_codebook_searched_in_slices_finds_the_nearest_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, x = torch.randn(50, 3, generator=generator), torch.randn(2, 3, 5, 7, generator=generator)
    x[0, :, 0, 0] = codes[49]
    monkeypatch.setattr(autoencoder, "CODES_AT_ONCE", 7)
    nearest = torch.cdist(x.double().flatten(2).transpose(1, 2), codes.double()).argmin(-1)
    book = Codebook(codes, codes * 2)
    assert torch.equal(book.search(x), nearest)
    assert torch.equal(book(x), (codes * 2)[nearest].transpose(1, 2).reshape(x.shape))


def test_holders_and_prefixes_of_trainers_are_taken_off(model: Path, tmp_path: Path) -> None:
    files = []
    for path, holder, prefix in zip(write_small(tmp_path), ("ema", "model"), ("module.", ""), strict=True):
        state = torch.load(path, weights_only=True)["state_dict"]
        state = {f"{prefix}{key}": tensor for key, tensor in state.items()} | {"loss.weight": torch.zeros(1)}
        torch.save({holder: state, "iterations": 3}, path)
        files.append(str(path))
    words = ["import-model", "--family", NAME, "--unet", files[0], "--autoencoder", files[1]]
    assert main([*words, "-o", str(tmp_path / "model")]) == 0
    for name in ("unet.safetensors", "autoencoder.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (model / name).read_bytes()


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet, vq = write_small(tmp_path / "files")
    state = torch.load(unet, weights_only=True)["state_dict"]
    unmasked = {key: tensor for key, tensor in state.items() if not key.endswith("attn_mask")}
    incomplete = {key: tensor for key, tensor in state.items() if "blocks.0.norm2" not in key}
    misshapen = state | {"middle_block.0.out_layers.3.weight": torch.zeros(32, 5, 3, 3)}
    whole = state | {"out.2.weight": torch.ones(3, 32, 3, 3, dtype=torch.int64)}
    torch.save(whole, tmp_path / "whole.pth")
    odd = state | {"out.2.weight": torch.full((3, 32, 3, 3), float("nan"))}
    for name, changed in (
        ("unmasked", unmasked),
        ("incomplete", incomplete),
        ("misshapen", misshapen),
        ("odd", odd),
    ):
        torch.save(changed, tmp_path / f"{name}.pth")
    (tmp_path / "truncated.pth").write_bytes(unet.read_bytes()[:-300])
    for first, second, reason in (
        (tmp_path / "truncated.pth", vq, "cannot be read"),
        (vq, unet, "expected ResShift's UNet"),
        (unet, unet, "expected a VQ autoencoder"),
        (tmp_path / "unmasked.pth", vq, "no attn_mask"),
        (tmp_path / "incomplete.pth", vq, "norm2"),
        (tmp_path / "misshapen.pth", vq, "out_layers.3"),
        (tmp_path / "odd.pth", vq, "no plain tensor of numbers"),
        (tmp_path / "whole.pth", vq, "no plain tensor of numbers"),
        (tmp_path / "nothing.pth", vq, "no such file"),
    ):
        capsys.readouterr()
        words = ["import-model", "--family", NAME, "--unet", str(first), "--autoencoder", str(second)]
        assert main([*words, "-o", str(tmp_path / "model")]) == 1, first
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and reason in lines[0], lines
    assert not (tmp_path / "model").exists()
    assert main(["import-model", "--family", NAME, "--unet", str(unet), "-o", str(tmp_path / "model")]) == 2


def test_settings_that_are_none_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ('{"kappa": 2.0}', '{"kappa": 2.0, "root_eta": 1.5, "steps": 15}', '{"kappa": "2"}'):
        (tmp_path / "resshift.json").write_text(text)
        for name in ("unet.safetensors", "autoencoder.safetensors"):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).symlink_to(model / name)
        capsys.readouterr()
        assert main(["export", str(tmp_path), "--float", "-o", str(tmp_path / "out")]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned block by block on a picture, exported, built for OpenVINO: onnx and engines."""

    def make(out: Path) -> None:
        spec, cache = out / "spec.json", str(out / "cache")
        steps = {"let_steps": 1, "lbq_steps": 2, "correction_steps": 2}
        spec.write_text(json.dumps({"method": "learned", "granularity": "block", "pictures": "photos", **steps}))
        words = ["calibrate", str(model), "--images", str(TINY), "--limit", "1", "--spec", str(spec)]
        assert main([*words, "--cache", cache]) == 0
        assert main(["export", str(model), "--cache", cache, "-o", str(out / "onnx")]) == 0
        assert main(["build-engines", str(out / "onnx"), "-o", str(out / "engines")]) == 0

    return made_once(tmp_path_factory, "resshift_built", make)


def test_every_site_is_int8_in_openvino(built: Path) -> None:
    engines = EngineBundle.load(built / "engines")
    for part in engines.parts:
        coverage = engines.coverage[part.name]
        assert coverage.sites_int8 == coverage.sites_quantized == len(part.sites) - 2, "all but first and last"
    assert [str(tensor) for part in engines.parts for tensor in (*part.inputs, part.output)] == [
        "lr [B, 3, H/4, W/4]",
        "z_y [B, 3, H/4, W/4]",
        "z_y [B, 3, H/4, W/4]",
        "noise [B, 3, H/4, W/4]",
        "lr [B, 3, H/4, W/4]",
        "x0 [B, 3, H/4, W/4]",
        "x0 [B, 3, H/4, W/4]",
        "picture [B, 3, H, W]",
    ]


@needs_rtx
def test_every_site_is_int8_in_tensorrt_rtx(built: Path, tmp_path: Path) -> None:
    words = ["build-engines", str(built / "onnx"), "-o", str(tmp_path / "rtx"), "--backend", "tensorrt-rtx"]
    assert main([*words, "--compute-capability", "8.9", "--require-int8", "1.0"]) == 0


def test_pictures_of_any_size_whole_tiled_and_seeded(built: Path, model: Path, tmp_path: Path) -> None:
    """INT8 engines beside the float parts in PyTorch, on what the authors pad a picture to."""
    photo = Image.open(DEMO / "calib" / "lr" / "000.png").convert("RGB").crop((0, 0, 45, 61))
    photo.save(tmp_path / "photo.png")
    made = {}
    for name, options in {
        "whole": [],
        "again": [],
        "other": ["--seed", "1"],
        "tiled": ["--tile", "128", "--overlap", "32"],
    }.items():
        out = tmp_path / f"{name}.png"
        words = ["infer", str(tmp_path / "photo.png"), "-o", str(out), "--engines", str(built / "engines")]
        assert main([*words, *options]) == 0
        made[name] = np.asarray(Image.open(out), float)
    assert {picture.shape for picture in made.values()} == {(244, 180, 3)}
    assert np.array_equal(made["whole"], made["again"])
    assert np.abs(made["other"] - made["whole"]).mean() > 1
    assert 0 < np.abs(made["tiled"] - made["whole"]).mean() < 20
    chain = load_model(model)
    lr = torch.from_numpy(np.pad(np.asarray(photo), ((0, 3), (0, 3), (0, 0)), "reflect")).permute(2, 0, 1)[None]
    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 48), dtype=np.float32)
    picture = chain.run({"lr": lr / 127.5 - 1, "noise": torch.from_numpy(noise)})["picture"]
    expected = (picture[0, :, :244, :180].clamp(-1, 1) + 1).mul(127.5).round().permute(1, 2, 0).double().numpy()
    assert 0 < np.abs(made["whole"] - expected).mean() < np.abs(made["other"] - made["whole"]).mean() / 2
    assert OnnxBundle.load(built / "onnx").model.family == NAME
