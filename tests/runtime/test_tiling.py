"""Tiles: what they cover, how they blend, where they may be seen."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle.wiring import ModelInfo
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.runtime.chain import Chain, load_engines
from passionsr_trt.runtime.images import read_picture, to_array, upscale
from passionsr_trt.runtime.tile_choice import WIDE, WIDE_COST, tilings
from passionsr_trt.runtime.tiling import Tiles, map_tiles, run_tiled, seam_energy, tile_starts
from passionsr_trt.runtime.upscaler import Options, super_resolve
from PIL import Image

from tests.conftest import DEMO, Built

RNG = np.random.default_rng(0)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.tuples(st.integers(2, 4), st.integers(2, 4)),
    st.integers(0, 15),
    st.integers(1, 7),
)
def test_tiles_of_an_identity_give_the_image_back(
    rows: int, columns: int, tile: tuple[int, int], overlap: int, batch: int
) -> None:
    image = RNG.random((1, 3, rows * 64, columns * 64), np.float32)
    shapes, batches = set(), []

    def run(pieces: np.ndarray) -> np.ndarray:
        shapes.add(pieces.shape[2:])
        batches.append(len(pieces))
        return pieces

    result = map_tiles(partial(map, run), image, (tile[0] * 8, tile[1] * 8), overlap, 8, batch)
    np.testing.assert_allclose(result, image, atol=1e-5)
    shape = min(tile[0], rows) * 64, min(tile[1], columns) * 64
    assert shapes == {shape}, "every tile has one shape, so one compiled engine"
    assert len(set(batches)) == 1 and batches[0] <= batch
    assert all(sum(batches) % size for size in range(batches[0] + 1, min(batch, sum(batches)) + 1)), "the largest"


def test_a_change_of_tone_between_tiles_is_spread_over_the_overlap() -> None:
    tones = iter(range(100))

    def run(piece: np.ndarray) -> np.ndarray:
        return piece + next(tones)

    result = map_tiles(partial(map, run), np.zeros((1, 3, 512, 256), np.float32), (256, 256), 128, 1)[0, 0, :, 0]
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
    first = next(tilings((2048, 2048), 64, None))
    assert first == Tiles((728, 464), (576, 576), 64), "15 and 16 tiles, against 25 of 512×512"
    assert str(first) == "tiles of 728×464 pixels (UNet 576×576)"
    assert next(tilings((1024, 1024), 64, None)) == Tiles((1024, 384), (1024, 384), 64)
    only = ((512, 448), (512, 448))
    assert list(tilings((4096, 4096), 64, only)) == [Tiles((512, 448), (512, 448), 64)]
    some = ((256, 256), (640, 640))
    assert list(tilings((2048, 1024), 64, some)) == [Tiles((576, 384), (576, 384), 64)]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 128), st.integers(1, 128), st.integers(0, 56))
@example(1, 128, 8)  # no larger than the overlap
@example(6, 7, 0)
def test_tiles_of_any_picture_keep_within_their_bounds(rows: int, columns: int, eighths: int) -> None:
    size, overlap = (64 * rows, 64 * columns), 8 * eighths
    choices = list(tilings(size, overlap, None))
    for tiles, side in zip(choices, (640, 512, 448, 384, 320, 256, 192, 128), strict=False):
        for tile, unit in ((tiles.vae, 8), (tiles.unet, 64)):
            for length, whole in zip(tile, size, strict=True):
                assert length % unit == 0
                assert length == whole or length > overlap
            assert math.prod(tile) <= side**2
            assert max(tile) <= 1.6 * side
    unet = choices[0].unet
    assert computed(size, unet, overlap) <= computed(size, (640, 640), overlap)
    vae = choices[0].vae
    if vae[1] <= WIDE:
        assert computed(size, vae, overlap) <= WIDE_COST * computed(size, (640, 640), overlap)


def test_engines_too_small_for_the_overlap_are_named() -> None:
    picture = Image.fromarray(np.zeros((300, 300, 3), np.uint8))
    with pytest.raises(UserError, match="--overlap 256: too much for engines of 256×256"):
        super_resolve(sizes_alone(((256, 256), (256, 256))), picture, Options(overlap=256))


class Part:
    """A part that changes the size alone: 8 down, none or 8 up."""

    backend = "none"

    def __init__(self, change: float) -> None:
        self.change = change

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Nothing."""

    def run(self, x: np.ndarray) -> np.ndarray:
        if self.change < 1:
            return x[:, :, ::8, ::8]
        return x if self.change == 1 else x.repeat(8, axis=2).repeat(8, axis=3)


def sizes_alone(limits: tuple[tuple[int, int], tuple[int, int]] | None = None) -> Chain:
    parts = {"vae_encoder": Part(1 / 8), "unet": Part(1), "vae_decoder": Part(8)}
    return Chain(ModelInfo("", 1, 3, "mode"), parts, "sizes", limits=limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(512, 512), (576, 1024), (1088, 640)])
def test_parts_in_tiles_meet_where_untiled_ones_do(size: tuple[int, int]) -> None:
    chain = sizes_alone()
    image = RNG.random((1, 3, *size), np.float32)
    np.testing.assert_allclose(
        run_tiled(chain, image, Tiles((232, 168), (192, 256), 64)), chain.run(image), atol=1e-5
    )
    assert set(chain.seconds) == {"vae_encoder", "unet", "vae_decoder"}


@pytest.mark.parametrize("size", [(1, 1), (70, 40), (513, 448), (2000, 90), (90, 2000)])
def test_engines_of_one_size_take_any_image(size: tuple[int, int]) -> None:
    picture = Image.fromarray(RNG.integers(0, 255, (*size, 3), np.uint8))
    result = super_resolve(sizes_alone(((512, 448), (512, 448))), picture, Options(align="none"))
    assert result.image.size == picture.size
    assert result.tiles == (None if max(size) <= 448 else Tiles((512, 448), (512, 448), 64))


@pytest.mark.parametrize("built", ["engines_fp32", "engines_int8"])
def test_tiles_at_once_are_what_they_are_alone(small: Built, built: str) -> None:
    chain = load_engines(getattr(small, built))
    image = to_array(upscale(read_picture(DEMO / "photos" / "hr" / "astronaut.png").rgb, 1))[None, :, :320, :256]
    tiles = Tiles((192, 128), (192, 128), 64)
    alone, at_once = (run_tiled(chain, image, replace(tiles, batch=batch)) for batch in (1, 4))
    error = np.linalg.norm(at_once - alone) / np.linalg.norm(alone)
    assert error < (1e-5 if built == "engines_fp32" else 0.02)


def test_no_seam_shows_between_tiles(demo: Built) -> None:
    source = read_picture(DEMO / "photos" / "hr" / "astronaut.png").rgb.resize((256, 256))
    image = to_array(upscale(source, 4))[None]
    chain = load_engines(demo.engines_int8)
    untiled = chain.run(image)[0]

    def energy(tiles: Tiles) -> float:
        return seam_energy(run_tiled(chain, image, tiles)[0], untiled, tiles.vae, tiles.overlap)

    assert seam_energy(untiled, untiled, (512, 512), 64) == 1
    assert energy(Tiles((512, 512), (512, 512), 64)) < 1.1
    assert energy(next(tilings((1024, 1024), 64, None))) < 1.1, "the default's own tiles"
    assert energy(Tiles((512, 512), (512, 512), 0)) > 1.1, "the measure sees a seam where there is one"
