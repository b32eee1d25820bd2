"""Tiles: what they cover, how they blend, where they may be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, Size, TensorInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.pictures.pictures import read_picture, to_array, upscale
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.chain import Chain, Limits
from passionsr_trt.runtime.core.planning import WIDE, WIDE_COST, Options, Tiles, tile_starts, tilings
from passionsr_trt.runtime.core.tiling import run_picture, seam_energy
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

from tests.conftest import DEMO, Built

RNG = np.random.default_rng(0)
IMAGE, LATENT = TensorInfo("image", 3, 1), TensorInfo("latent", 3, 8)
CLEAN = TensorInfo("clean_latent", 3, 8)
PARTS = (
    PartInfo("vae_encoder", "", (IMAGE,), LATENT, 8),
    PartInfo("unet", "", (LATENT,), CLEAN, 64),
    PartInfo("vae_decoder", "", (CLEAN,), TensorInfo("image_out", 3, 1), 8),
)


def tiles(vae: Size, unet: Size, overlap: int = 64) -> Tiles:
    return Tiles({"vae_encoder": vae, "unet": unet, "vae_decoder": vae}, overlap)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.tuples(st.integers(2, 4), st.integers(2, 4)),
    st.integers(0, 15),
    st.integers(1, 7),
    st.booleans(),
)
def test_tiles_of_an_identity_give_the_image_back(
    rows: int, columns: int, tile: tuple[int, int], overlap: int, batch: int, ragged: bool
) -> None:
    image = RNG.random((1, 3, rows * 64, columns * 64), np.float32)
    shapes, batches = set(), []

    def run(pieces: np.ndarray) -> np.ndarray:
        shapes.add(pieces.shape[2:])
        batches.append(len(pieces))
        return pieces

    sides = {"part": (tile[0] * 64, tile[1] * 64)}
    result = run_picture(alone(run), {"image": image}, Tiles(sides, overlap * 8, batch, ragged))
    np.testing.assert_allclose(result.tensors["out"], image, atol=1e-5)
    shape = min(tile[0], rows) * 64, min(tile[1], columns) * 64
    assert shapes == {shape}, "every tile has one shape, so one compiled engine"
    count = sum(batches)
    assert batches[0] <= batch
    if ragged:
        assert len(batches) == -(-count // batch), "as few as there can be"
    else:
        assert len(set(batches)) == 1
        assert all(count % size for size in range(batches[0] + 1, min(batch, count) + 1)), "the largest"


def test_a_change_of_tone_between_tiles_is_spread_over_the_overlap() -> None:
    tones = iter(range(100))

    def run(piece: np.ndarray) -> np.ndarray:
        return piece + next(tones)

    zeros = {"image": np.zeros((1, 3, 512, 256), np.float32)}
    result = run_picture(alone(run), zeros, Tiles({"part": (256, 256)}, 128)).tensors["out"][0, 0, :, 0]
    assert result[0] == 0 and result[-1] == 2
    assert np.abs(np.diff(result)).max() < np.pi / 2 / 128 * 1.1


def test_the_last_tile_ends_at_the_edge() -> None:
    assert tile_starts(1000, 512, 128) == [0, 384, 488]
    assert tile_starts(512, 512, 128) == [0]


def computed(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> int:
    """Pixels computed in all."""
    tile = min(tile[0], size[0]), min(tile[1], size[1])
    counts = (len(tile_starts(length, side, overlap)) for length, side in zip(size, tile, strict=True))
    return math.prod(counts) * math.prod(tile)


def test_the_tiles_that_compute_least_are_chosen() -> None:
    first = next(tilings((2048, 2048), 64, None, PARTS))
    assert first == tiles((728, 464), (576, 576)), "15 and 16 tiles, against 25 of 512×512"
    assert str(first) == "tiles of 464×728 pixels (unet 576×576)"
    assert next(tilings((1024, 1024), 64, None, PARTS)) == tiles((1024, 384), (1024, 384))
    only = ((512, 448), (512, 448))
    assert list(tilings((4096, 4096), 64, only, PARTS)) == [tiles((512, 448), (512, 448))]
    some = ((256, 256), (640, 640))
    assert list(tilings((2048, 1024), 64, some, PARTS)) == [tiles((576, 384), (576, 384))]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 128), st.integers(1, 128), st.integers(0, 56))
@example(1, 128, 8)  # no larger than the overlap
@example(6, 7, 0)
def test_tiles_of_any_picture_keep_within_their_bounds(rows: int, columns: int, eighths: int) -> None:
    size, overlap = (64 * rows, 64 * columns), 8 * eighths
    choices = list(tilings(size, overlap, None, PARTS))
    for choice, side in zip(choices, (640, 512, 448, 384, 320, 256, 192, 128), strict=False):
        assert choice.sides["vae_encoder"] == choice.sides["vae_decoder"]
        for part in PARTS:
            tile, unit = choice.sides[part.name], part.multiple
            for length, whole in zip(tile, size, strict=True):
                assert length % unit == 0
                assert length == whole or length > overlap
            assert math.prod(tile) <= side**2
            assert max(tile) <= 1.6 * side
    unet = choices[0].sides["unet"]
    assert computed(size, unet, overlap) <= computed(size, (640, 640), overlap)
    vae = choices[0].sides["vae_encoder"]
    if vae[1] <= WIDE:
        assert computed(size, vae, overlap) <= WIDE_COST * computed(size, (640, 640), overlap)


def test_engines_too_small_for_the_overlap_are_named() -> None:
    picture = Image.fromarray(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(UserError, match="--overlap 256: too much for engines of 256×256"):
        super_resolve(sizes_alone(((256, 256), (256, 256))), picture, Options(overlap=256))


class Scaling:
    """A part that changes the size alone: 8 down, none or 8 up."""

    def __init__(self, change: float) -> None:
        self.change = change

    def prepare(self, shapes: object) -> None:
        """Nothing."""

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        (x,) = inputs.values()
        if self.change < 1:
            return x[:, :, ::8, ::8]
        return x if self.change == 1 else x.repeat(8, axis=2).repeat(8, axis=3)


class Calling(Scaling):
    """A part that does what a function does."""

    def __init__(self, work: Callable[[np.ndarray], np.ndarray]) -> None:
        self.work = work

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        (x,) = inputs.values()
        return self.work(x)


def sizes_alone(limits: Limits | None = None) -> Chain:
    executor = HostExecutor({"vae_encoder": Scaling(1 / 8), "unet": Scaling(1), "vae_decoder": Scaling(8)})
    return Chain(ModelInfo("", "none", 1, "none"), PARTS, executor, "sizes", limits=limits)


def alone(work: Callable[[np.ndarray], np.ndarray]) -> Chain:
    """A chain of one part, picture to picture."""
    part = PartInfo("part", "", (IMAGE,), TensorInfo("out", 3, 1), 64)
    return Chain(ModelInfo("", "none", 1, "none"), (part,), HostExecutor({"part": Calling(work)}), "one")


def test_a_second_source_is_cut_where_the_first_is_and_rows_go_along_whole() -> None:
    """Noise [1, C, H/8, W/8] beside an image, and a row [1, C] that every tile sees."""
    inputs = (IMAGE, TensorInfo("noise", 3, 8), TensorInfo("lr", 3, 0))
    part = PartInfo("part", "", inputs, TensorInfo("out", 3, 1), 64)

    class Adding(Scaling):
        def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
            image, noise, row = inputs["image"], inputs["noise"], inputs["lr"]
            assert len(row) == len(image) > 1
            return image + noise.repeat(8, axis=2).repeat(8, axis=3) + row[:, :, None, None]

    sources = {
        "image": RNG.random((1, 3, 320, 256), np.float32),
        "noise": RNG.random((1, 3, 40, 32), np.float32),
        "lr": RNG.random((1, 3), np.float32),
    }
    chain = Chain(ModelInfo("", "none", 1, "none"), (part,), HostExecutor({"part": Adding(1)}), "adding")
    found = run_picture(chain, sources, Tiles({"part": (128, 192)}, 64, batch=2))
    whole = (
        sources["image"] + sources["noise"].repeat(8, axis=2).repeat(8, axis=3) + sources["lr"][:, :, None, None]
    )
    np.testing.assert_allclose(found.tensors["out"], whole, atol=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (576, 1024), (1088, 640)])
def test_parts_in_tiles_meet_where_untiled_ones_do(size: tuple[int, int]) -> None:
    chain = sizes_alone()
    image = RNG.random((1, 3, *size), np.float32)
    done, whole = run_picture(chain, {"image": image}, tiles((232, 168), (192, 256))), chain.run({"image": image})
    np.testing.assert_allclose(done.tensors["image_out"], whole.tensors["image_out"], atol=1e-5)
    assert set(done.seconds) == set(whole.seconds) == {"vae_encoder", "unet", "vae_decoder"}


@pytest.mark.parametrize("size", [(1, 1), (70, 40), (513, 448), (2000, 90), (90, 2000)])
def test_engines_of_one_size_take_any_image(size: tuple[int, int]) -> None:
    picture = Image.fromarray(RNG.integers(0, 255, (*size, 3), np.uint8))
    result = super_resolve(sizes_alone(((512, 448), (512, 448))), picture, Options(align="none"))
    assert result.image.size == picture.size
    assert result.tiles == (None if max(size) <= 448 else tiles((512, 448), (512, 448)))


@pytest.mark.parametrize("built", ["engines_fp32", "engines_int8"])
def test_tiles_at_once_are_what_they_are_alone(small: Built, built: str) -> None:
    chain = load_engines(getattr(small, built))
    image = to_array(upscale(read_picture(DEMO / "photos" / "hr" / "astronaut.png").rgb, 1))[None, :, :320, :256]
    shape = tiles((192, 128), (192, 128))
    single, at_once = (
        run_picture(chain, {"image": image}, replace(shape, batch=batch)).tensors["image_out"] for batch in (1, 4)
    )
    error = np.linalg.norm(at_once - single) / np.linalg.norm(single)
    assert error < (1e-5 if built == "engines_fp32" else 0.02)


def test_no_seam_shows_between_tiles(demo: Built) -> None:
    photo = read_picture(DEMO / "photos" / "hr" / "astronaut.png").rgb.resize((256, 256))
    chain = load_engines(demo.engines_int8)

    def energies(height: int, *cuts: Tiles) -> list[float]:
        """Of the photo's middle, 512 pixels wide and so high once it is enlarged."""
        source = {"image": to_array(upscale(photo.crop((64, 0, 192, height // 4)), 4))[None]}
        untiled = chain.run(source).tensors["image_out"][0]
        assert seam_energy(untiled, untiled, (256, 256), 64) == 1
        found = [(run_picture(chain, source, cut).tensors["image_out"][0], cut) for cut in cuts]
        return [seam_energy(picture, untiled, cut.sides["vae_encoder"], cut.overlap) for picture, cut in found]

    blended, cut_hard = energies(512, tiles((256, 256), (256, 256)), tiles((256, 256), (256, 256), 0))
    assert blended < 1.1
    assert cut_hard > 1.1, "the measure sees a seam where there is one"
    (by_default,) = energies(1024, next(tilings((1024, 512), 64, None, chain.parts)))
    assert by_default < 1.1, "the default's own tiles"
