"""Tiles: what they cover, how they blend, where they may be seen."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from passionsr_trt.engines.bundle import ModelInfo
from passionsr_trt.engines.errors import UserError
from passionsr_trt.runtime.chain import Chain, load_engines
from passionsr_trt.runtime.images import read_picture, to_array, upscale
from passionsr_trt.runtime.tiling import choose_tile, map_tiles, run_tiled, seam_energy, tile_starts
from passionsr_trt.runtime.upscaler import Options, super_resolve
from PIL import Image

from tests.conftest import DEMO, Built

RNG = np.random.default_rng(0)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 4), st.integers(0, 15))
def test_tiles_of_an_identity_give_the_image_back(rows: int, columns: int, side: int, overlap: int) -> None:
    image = RNG.random((1, 3, rows * 64, columns * 64), np.float32)
    shapes = set()

    def run(piece: np.ndarray) -> np.ndarray:
        shapes.add(piece.shape[2:])
        return piece

    result = map_tiles(partial(map, run), image, side * 8, overlap, 8)
    np.testing.assert_allclose(result, image, atol=1e-5)
    assert len(shapes) == 1, "every tile has one shape, so one compiled engine"
    assert all(height <= max(side * 64, image.shape[2]) for height, _width in shapes)


def test_a_change_of_tone_between_tiles_is_spread_over_the_overlap() -> None:
    tones = iter(range(100))

    def run(piece: np.ndarray) -> np.ndarray:
        return piece + next(tones)

    result = map_tiles(partial(map, run), np.zeros((1, 3, 512, 256), np.float32), 256, 128, 1)[0, 0, :, 0]
    assert result[0] == 0 and result[-1] == 2
    assert np.abs(np.diff(result)).max() < np.pi / 2 / 128 * 1.1


def test_the_last_tile_ends_at_the_edge() -> None:
    assert tile_starts(1000, 512, 128) == [0, 384, 488]
    assert tile_starts(512, 512, 128) == [0]


def test_the_side_that_computes_least_is_chosen() -> None:
    assert choose_tile(2048, 2048, range(512, 641, 64), 64) == 576, "4×4 tiles, against 5×5 of 512"
    assert choose_tile(1088, 512, range(512, 641, 64), 64) == 576
    assert choose_tile(4096, 4096, [512], 64) == 512


class Part:
    """A part that changes the size alone: 8 down, none or 8 up."""

    backend = "none"

    def __init__(self, change: float) -> None:
        self.change = change

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
    np.testing.assert_allclose(run_tiled(chain, image, 256, 64), chain.run(image), atol=1e-5)
    assert set(chain.seconds) == {"vae_encoder", "unet", "vae_decoder"}


@pytest.mark.parametrize("size", [(1, 1), (70, 40), (513, 512), (2000, 90)])
def test_engines_of_one_size_take_any_image(size: tuple[int, int]) -> None:
    picture = Image.fromarray(RNG.integers(0, 255, (*size, 3), np.uint8))
    result = super_resolve(sizes_alone(((512, 512), (512, 512))), picture, Options(align="none"))
    assert result.image.size == picture.size
    assert result.tile == (0 if max(size) <= 512 else 512)


def test_sides_that_allow_no_square_tile_are_named() -> None:
    picture = Image.fromarray(np.zeros((300, 700, 3), np.uint8))
    with pytest.raises(UserError, match="needs square tiles"):
        super_resolve(sizes_alone(((512, 512), (512, 512 - 64))), picture, Options())


def test_no_seam_shows_between_tiles(demo: Built) -> None:
    source = read_picture(DEMO / "photos" / "hr" / "astronaut.png").rgb.resize((256, 256))
    image = to_array(upscale(source, 4))[None]
    chain = load_engines(demo.engines_int8)
    untiled = chain.run(image)[0]
    blended, cut = (run_tiled(chain, image, 512, overlap)[0] for overlap in (64, 0))
    assert seam_energy(untiled, untiled, 512, 64) == 1
    assert seam_energy(blended, untiled, 512, 64) < 1.1
    assert seam_energy(cut, untiled, 512, 0) > 1.1, "the measure sees a seam where there is one"
