"""Transparency: what nobody sees changes nothing that is seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.pictures.pictures import read_picture, upscale
from passionsr_trt.engines.pictures.pixels import fill_hidden
from passionsr_trt.runtime.apps.serving.engines import EngineChoice, offers
from passionsr_trt.runtime.apps.serving.sessions import Sessions
from passionsr_trt.runtime.apps.serving.work import Wishes, upscale_pictures
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.main import main
from passionsr_trt.runtime.pictures.images import as_written
from PIL import Image

from tests.conftest import DEMO, Built
from tests.pictures import RNG, SIZE, noise, written


def ramp(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Alpha [H, W] of a disc: hidden, soft and opaque."""
    y, x = np.mgrid[: size[1], : size[0]]
    inside = min(size) / 2.5 - np.hypot(y - size[1] / 2, x - size[0] / 2)
    return (np.clip(inside / 3 + 0.5, 0, 1) * 255).round().astype(np.uint8)


def twins(mode: str) -> list[Image.Image]:
    """Two pictures that look the same over everything; their hidden colours differ."""
    colours, alpha = RNG.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8), ramp()
    result = []
    for _ in range(2):
        colours = np.where(alpha[..., None] > 0, colours, RNG.integers(0, 256, colours.shape, np.uint8))
        image = Image.fromarray(colours).convert("L" if mode == "LA" else "RGB")
        image.putalpha(Image.fromarray(alpha))
        result.append(image)
    return result


def files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Such pairs as files, in every way that a file may be transparent."""
    rgb, grey = twins("RGBA"), twins("LA")
    made: dict[str, Any] = {
        "rgba.png": [(image, {}) for image in rgb],
        "la.png": [(image, {}) for image in grey],
        "rgba.tif": [(image, {}) for image in rgb],
        "la.tif": [(image, {}) for image in grey],
        "rgba.webp": [(image, {"lossless": True, "exact": True}) for image in rgb],
    }
    indices = RNG.integers(1, 8, (SIZE[1], SIZE[0]), np.uint8)
    indices[ramp() == 0] = 0
    for suffix in ("png", "gif"):
        pair = []
        for hidden in ((255, 0, 255), (1, 2, 3)):
            image = Image.fromarray(indices, "P")
            image.putpalette([*hidden, *range(10, 31)])
            pair.append((image, {"transparency": 0}))
        made[f"palette.{suffix}"] = pair
    for mode in ("L", "RGB"):
        pair = []
        for key in (7, 201):
            pixels = np.where(ramp()[..., None] > 0, 100 + indices[..., None] * np.uint8([9, 5, 3]), np.uint8(key))
            image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
            image = image.getchannel(0) if mode == "L" else image
            pair.append((image, {"transparency": key if mode == "L" else (key,) * 3}))
        made[f"colour of {mode}.png"] = pair
    result = {}
    for name, pair in made.items():
        paths = [folder / str(index) / name for index in range(2)]
        for (image, options), path in zip(pair, paths, strict=True):
            path.parent.mkdir(exist_ok=True)
            image.save(path, **options)
        result[name] = (paths[0], paths[1])
    return result


def test_hidden_colours_change_nothing_to_the_bit(small: Built, tmp_path: Path) -> None:
    pairs = files(tmp_path)
    for name, (first, second) in pairs.items():
        one, other = read_picture(first), read_picture(second)
        assert np.array_equal(one.rgb, other.rgb) and one.alpha == other.alpha is not None, name
    for index in range(2):
        folder = tmp_path / f"in {index}"
        folder.mkdir()
        for name, pair in pairs.items():
            shutil.copy(pair[index], folder / f"{name.replace('.', ' ')}{pair[index].suffix}")
        words = ["infer", str(folder), "-o", str(tmp_path / f"out {index}")]
        assert main([*words, "--engines", str(small.engines_int8)]) == 0
    for path in sorted((tmp_path / "out 0").glob("*.png")):
        assert path.read_bytes() == (tmp_path / "out 1" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L"])
def test_what_is_seen_keeps_its_colours(tmp_path: Path, mode: str) -> None:
    image = twins("LA" if mode == "LA" else "RGBA")[0].convert(mode)
    image.save(tmp_path / "image.png")
    picture = read_picture(tmp_path / "image.png")
    seen = np.ones((16, 24), bool) if picture.alpha is None else np.asarray(picture.alpha) > 0
    assert np.array_equal(np.asarray(picture.rgb)[seen], np.asarray(image.convert("RGB"))[seen])


def test_a_sprite_of_one_colour_is_that_colour_everywhere() -> None:
    colours = np.full((*ramp().shape, 3), (200, 30, 90), np.uint8)
    spoilt = np.where(ramp()[..., None] > 0, colours, np.uint8(255))
    assert np.array_equal(fill_hidden(spoilt, ramp()), colours)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (64, 48)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_visible_pixel_colours_everything(size: tuple[int, int], dtype: Any) -> None:
    colours = RNG.integers(0, np.iinfo(dtype).max, (*size, 3)).astype(dtype)
    alpha = np.zeros(size, dtype)
    alpha[5, 3] = 1
    assert (fill_hidden(colours, alpha) == colours[5, 3]).all()
    assert (fill_hidden(colours, alpha * 0) == 0).all()


@pytest.mark.parametrize("background", [0, 128, 255])
def test_a_soft_edge_shows_no_fringe(background: int) -> None:
    """Enlarged and then laid over a background against the other way round: levels at the edge, in the mean.

    Bicubic, which is linear: what a network makes of an edge is not measured.
    """
    with Image.open(DEMO / "photos" / "lr" / "chelsea.png") as file:
        colours = np.array(file.convert("RGB").crop((0, 0, 96, 72)))
    alpha = ramp((96, 72))
    colours[alpha == 0] = RNG.integers(0, 256, (int((alpha == 0).sum()), 3), np.uint8)
    large = np.asarray(upscale(Image.fromarray(alpha), 4), np.float32)[..., None] / 255
    edge = ((large > 0) & (large < 1))[..., 0]

    def error(pixels: np.ndarray) -> float:
        result = np.asarray(upscale(Image.fromarray(pixels), 4)) * large + background * (1 - large)
        laid = np.rint(pixels * (alpha[..., None] / 255) + background * (1 - alpha[..., None] / 255))
        expected = np.asarray(upscale(Image.fromarray(laid.astype(np.uint8)), 4), np.float32)
        return float(np.abs(result - expected)[edge].mean())

    filled, spoilt = error(fill_hidden(colours, alpha)), error(colours)
    assert filled < 1 and spoilt > 1.5 * filled, (filled, spoilt)


def test_transparency_is_laid_over_a_background_and_said(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = noise("RGBA")
    image.putalpha(Image.new("L", SIZE, 0))
    image.save(tmp_path / "hidden.png")
    noise().save(tmp_path / "opaque.png")
    words = ["infer", str(tmp_path / "hidden.png"), str(tmp_path / "opaque.png"), "--format", "jpg"]
    words += ["--engines", str(small.engines_int8), "-o"]
    for background, colour in (("white", (255, 255, 255)), ("#204060", (0x20, 0x40, 0x60))):
        assert main([*words, str(tmp_path / background), "--background", background]) == 0
        with Image.open(tmp_path / background / "hidden.jpg") as result:
            assert np.abs(np.asarray(result, np.int64) - colour).max() <= 3
        lines = [line for line in capsys.readouterr().err.split("\n") if "JPEG has none" in line]
        assert len(lines) == 1 and f"hidden.png: transparency laid over #{bytes(colour).hex()}" in lines[0]
    with pytest.raises(SystemExit) as stop:
        main([*words, str(tmp_path / "out"), "--background", "#12345678"])
    assert stop.value.code == 2 and "expected a colour, such as white" in capsys.readouterr().err


def test_the_page_lays_over_its_background_and_says_so(small: Built, tmp_path: Path) -> None:
    image = noise("RGBA")
    image.putalpha(Image.new("L", SIZE, 0))
    image.save(tmp_path / "hidden.png")
    choice = EngineChoice(offers([small.engines_int8], "cpu", 1, 0))
    wishes = Wishes("INT8", form="jpg", options=Options(background=(10, 200, 30)))
    with Sessions(tmp_path).work("one", []) as (token, folder):
        work = upscale_pictures(choice, [tmp_path / "hidden.png"], wishes, folder, token, lambda *_: None, 10**6)
        (shown,) = work
        assert shown.file is not None and "laid over #0ac81e: JPEG has none" in shown.line
        with Image.open(shown.file) as result:
            assert np.abs(np.asarray(result, np.int64) - (10, 200, 30)).max() <= 3
    choice.close()


@pytest.mark.parametrize(("background", "mode"), [((9, 9, 9), "L"), ((9, 9, 8), "RGB")])
def test_grey_stays_grey_over_grey(tmp_path: Path, background: tuple[int, int, int], mode: str) -> None:
    image = noise("LA")
    image.putalpha(Image.new("L", SIZE, 0))
    image.save(tmp_path / "in.png")
    picture = read_picture(tmp_path / "in.png")
    assert written(picture, tmp_path / "out.jpg", background=background).mode == mode
    assert "nothing to see: all of it is transparent" in picture.notes


def test_opaque_alpha_is_nothing_to_tell(tmp_path: Path) -> None:
    noise("RGBA").save(tmp_path / "in.png")
    assert as_written(read_picture(tmp_path / "in.png"), tmp_path / "out.jpg").notes == []
