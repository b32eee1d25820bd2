"""Upscaler: engines for a program to call, pictures in, pictures out. docs/python.md shows it."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import numpy as np
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.pictures.pictures import MAX_PIXELS, MIN_SIDE
from passionsr_trt.engines.pictures.pixels import CONVERTED, eight_bits
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.backends.packaged import DEFAULT, located
from passionsr_trt.runtime.core.chain import PROVIDERS, Chain, rescaled
from passionsr_trt.runtime.core.planning import Options, check_options
from passionsr_trt.runtime.core.upscaler import SRResult, super_resolve_each
from PIL import Image

Picture = TypeVar("Picture", Image.Image, np.ndarray)
GIB = 2**30


@dataclass(frozen=True)
class Given:
    """What is kept of a picture until its result is there. icc: the colour profile, which goes along."""

    is_array: bool
    alpha: Image.Image | None = None
    grey: bool = False
    icc: bytes | None = None


class Upscaler:
    """Super-resolution by a folder of engines, loaded once.

    A picture is a Pillow image of 8 bits a channel, or a NumPy array uint8 [height, width, 3] of RGB. The result
    is `scale` times as high and wide, and an array for an array. An image's result is RGB, or grey where the image
    is (L), with alpha where it has some, enlarged bicubically, and with its colour profile; EXIF, and the
    orientation in it, is not heeded (`PIL.ImageOps.exif_transpose` turns an image). Errors are UserError
    (passionsr_trt.engines.common.errors), with one line that says what was expected.

    Threads: `up` may be called from several; one picture is computed at a time, the others wait. A stream has the
    engines to itself until it ends or is closed: `up` and a second stream are refused meanwhile.
    """

    def __init__(
        self,
        engines: str | os.PathLike[str] | None = None,
        *,
        align: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        batch: int | None = None,
        scale: int | None = None,
        seed: int = 0,
        memory: float | None = None,
        threads: int = 0,
        streams: int = 1,
        provider: str | None = None,
        cache_size: float = 5.0,
        cuda_graph: bool = True,
    ) -> None:
        """Load engines. UserError where they cannot be loaded, or not be run with these options.

        engines: a folder made by `quantize` (its `engines`) or build-engines; None: the default engines.
        align: colour fix, `adain`, `wavelet` or `none`; None: the model's own.
        tile: side of square tiles in output pixels, 0: never tile; None: by size and memory.
        overlap: of tiles, in output pixels; None: as far as the model sees.
        batch: tiles at once; None: as many as the engines were built for.
        scale: times to enlarge, where the model works on the enlarged picture; None: the model's own.
        seed: of the noise, for models that draw some.
        memory: GiB that may be used; None: all that is free.
        threads: of the CPU, 0: all. streams: pictures at once in `stream`, on a CPU.
        provider: `cpu`, `cuda` or `tensorrt`, to run an ONNX bundle under ONNX Runtime instead.
        cache_size: GiB of compiled OpenVINO models kept in the user's cache folder, 0: none.
        cuda_graph: False: launch a GPU's kernels one by one.
        """
        self._lock = threading.Lock()
        self._streaming = False
        self._chain: Chain | None = None
        _check("align", align, align is None or align in ALIGNMENTS, f"{', '.join(ALIGNMENTS)} or None")
        _check("provider", provider, provider is None or provider in PROVIDERS, f"{', '.join(PROVIDERS)} or None")
        _check("scale", scale, scale is None or 1 <= scale <= 8, "1 to 8 or None")
        for name, value, least in (("tile", tile, 0), ("overlap", overlap, 0), ("batch", batch, 1)):
            _check(name, value, value is None or value >= least, f"at least {least}, or None")
        for name, number, least in (("seed", seed, 0), ("threads", threads, 0), ("streams", streams, 1)):
            _check(name, number, number >= least, f"at least {least}")
        _check("memory", memory, memory is None or memory > 0, "GiB above 0, or None")
        _check("cache_size", cache_size, cache_size >= 0, "GiB, 0: none are kept")
        bytes_allowed = None if memory is None else round(memory * GIB)
        self._options = Options(align, tile, overlap, seed, bytes_allowed, batch)
        folder = located(DEFAULT if engines is None else Path(engines), onnx=provider is not None)
        cache = round(cache_size * GIB)
        chain = load_engines(folder, threads, provider, cuda_graph=cuda_graph, cache=cache, streams=streams)
        try:
            check_options(self._options, chain)
            self._chain = rescaled(chain, scale)
        except BaseException:
            chain.close()
            raise

    @property
    def scale(self) -> int:
        """How many times as high and wide a result is."""
        return self._open().model.upscale

    def up(self, image: Picture) -> Picture:
        """One picture, enlarged. UserError where it is none that can be taken, or does not fit into memory."""
        with self._lock:
            chain = self._open()
            self._refuse_streaming()
            ((given, result),) = self._each(chain, [image])
        if isinstance(result, Exception):
            raise _told(result) from None
        return cast(Picture, _finished(given, result))

    def stream(self, images: Iterable[Picture], *, keep_going: bool = False) -> Iterator[Picture | UserError]:
        """Pictures, enlarged, in their order. The next is asked for when there is room for it, a few ahead.

        keep_going: a picture that fails gives its UserError in its place, and those behind it follow; else it is
        raised, which ends the stream. Close the iterator to end before the pictures do (`contextlib.closing`).
        """
        with self._lock:
            chain = self._open()
            self._refuse_streaming()
            self._streaming = True
        try:
            with closing(self._each(chain, images)) as results:
                for given, result in results:
                    if isinstance(result, SRResult):
                        yield cast(Picture, _finished(given, result))
                    elif keep_going:
                        yield _told(result)
                    else:
                        raise _told(result) from None
                    self._open()
        finally:
            self._streaming = False

    def close(self) -> None:
        """Free the engines. Pictures cannot be enlarged any more; closing twice does nothing."""
        with self._lock:
            chain, self._chain = self._chain, None
            if chain is not None:
                chain.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Chain:
        if self._chain is None:
            raise UserError("this Upscaler is closed", "expected an open one")
        return self._chain

    def _refuse_streaming(self) -> None:
        if self._streaming:
            raise UserError("a stream of this Upscaler is under way", "expected its end, or close it")

    def _each(self, chain: Chain, images: Iterable[Picture]) -> Generator[tuple[Given, SRResult | Exception]]:
        return super_resolve_each(chain, map(_taken, images), self._options)


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UserError(f"{name} is {value!r}", f"expected {expected}")


def _taken(image: Image.Image | np.ndarray) -> tuple[Given, Image.Image | Exception]:
    """What a result is finished by, and an 8-bit RGB image or why there is none."""
    given = Given(is_array=isinstance(image, np.ndarray))
    try:
        size = _size(image)
        if min(size) < MIN_SIDE or size[0] * size[1] > MAX_PIXELS:
            most = f"{MAX_PIXELS / 1e6:.0f} megapixels at most"
            raise UserError(
                f"a picture of {size[0]}×{size[1]} pixels", f"expected sides from {MIN_SIDE} on, {most}"
            )
        if isinstance(image, np.ndarray):
            return given, Image.fromarray(image)
        pixels = eight_bits(image, None)
        icc = None if image.mode in CONVERTED else image.info.get("icc_profile")
        return Given(False, pixels.alpha, pixels.grey, icc), pixels.rgb
    except (UserError, MemoryError) as error:
        return given, error
    except Exception as error:  # Pillow decodes late, and a damaged file may raise anything
        return given, UserError(f"a picture that cannot be decoded ({reason_of(error)})", "expected a whole one")


def _size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """Width and height. UserError for what is no picture of 8 bits a channel."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an array {image.dtype} {list(image.shape)}", "expected uint8 [height, width, 3]")
        return image.shape[1], image.shape[0]
    if not isinstance(image, Image.Image):
        raise UserError(f"a picture of type {type(image).__name__}", "expected a Pillow image or a NumPy array")
    if image.mode.startswith("I") or image.mode == "F":
        raise UserError(f"an image of mode {image.mode}", "expected 8 bits a channel", "infer takes files of 16")
    return image.size


def _finished(given: Given, result: SRResult) -> Image.Image | np.ndarray:
    """A result of the kind that was given."""
    if given.is_array:
        return np.array(result.image)
    image = result.image.convert("L") if given.grey else result.image
    if given.alpha is not None:
        image.putalpha(given.alpha.resize(image.size, Image.Resampling.BICUBIC))
    if given.icc:
        image.info["icc_profile"] = given.icc
    return image


def _told(error: Exception) -> UserError:
    """What is raised for a picture that failed."""
    if isinstance(error, UserError):
        return error
    return UserError("out of memory", "expected room for this picture", "a smaller tile needs less")
