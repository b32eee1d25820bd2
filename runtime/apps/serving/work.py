"""From an uploaded picture to what the page shows of it. Files are written as `infer` writes them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from passionsr_trt.engines.bundle.wiring import Size
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.pictures.pictures import MAX_PIXELS, Picture, header_size, opened, read_picture
from passionsr_trt.runtime.apps.report_pictures import difference
from passionsr_trt.runtime.apps.serving.engines import EngineChoice
from passionsr_trt.runtime.apps.serving.meter import Meter, Report
from passionsr_trt.runtime.apps.serving.sessions import CancelToken
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.core.files import read_fitting
from passionsr_trt.runtime.core.observing import Plan, plan_of
from passionsr_trt.runtime.core.planning import Options, check_options
from passionsr_trt.runtime.core.upscaler import SRResult, super_resolve
from passionsr_trt.runtime.pictures.images import as_written, save_image
from PIL import Image

SHOWN_PIXELS = 16_000_000  # of a picture on the page; larger ones are shown smaller, their files are whole
FORMATS = {"JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # inputs given back as they are; others as PNG
OWN_FORMAT = "the input's"


@dataclass(frozen=True)
class Wishes:
    """What was chosen. engines: their label; scale: None for the model's own."""

    engines: str
    scale: int | None = None
    form: str = OWN_FORMAT
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Figures:
    """Of one run. seconds: part → its computation; tiles: what it was cut into, nothing where it was not."""

    seconds: Mapping[str, float]
    tiles: str

    @classmethod
    def of(cls, result: SRResult) -> Figures:
        return cls(result.seconds, str(result.tiles or ""))


@dataclass(frozen=True)
class Shown:
    """One picture's outcome: its line, and where it went well its file, what is looked at, and figures.

    file: in the chosen format, what `infer` writes. looks: PNGs, `bicubic` and `result`, once compared `other` and
    `difference`. size: (height, width) of the file. other: the engines it is compared with. figures: by engines.
    """

    source: Path
    wishes: Wishes
    line: str
    file: Path | None = None
    size: Size = (0, 0)
    looks: Mapping[str, Path] = field(default_factory=dict)
    other: str = ""
    figures: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.source.name


class Run:
    """Some pictures through one chain. works: multiply-accumulates of each, as far as they are known."""

    def __init__(
        self,
        choice: EngineChoice,
        chain: Chain,
        wishes: Wishes,
        works: Sequence[float],
        token: CancelToken,
        report: Report,
    ) -> None:
        self.paces, self.chain, self.wishes = choice.paces, chain, wishes
        self.meter = Meter(token, report, works, self.paces.get(wishes.engines))

    @contextmanager
    def of(self, index: int, picture: Picture, name: str) -> Iterator[SRResult]:
        """One picture's result; it counts as under way until the context ends. Raises Cancelled."""
        self.meter.token.check()
        plan = plan_of(self.chain, (picture.rgb.height, picture.rgb.width), self.wishes.options)
        with self.meter.picture(index, plan, name) as watch:
            began = time.monotonic()
            result = super_resolve(self.chain, picture.given, self.wishes.options, watch)
            self.paces[self.wishes.engines] = (time.monotonic() - began) / plan.work
            yield result


def upscale_pictures(
    choice: EngineChoice,
    paths: Sequence[Path],
    wishes: Wishes,
    folder: Path,
    token: CancelToken,
    report: Report,
    most: int,
) -> Iterator[Shown]:
    """Picture by picture; what goes wrong with one is its line. Raises Cancelled between two tiles.

    most: pixels that an uploaded picture may have.
    """
    with choice.turn(token.check):
        report(0.0, "getting ready")
        chain = fitting(choice, wishes)
        plans = [plan_or_none(chain, path, wishes.options, most) for path in paths]
        run = Run(choice, chain, wishes, [plan.work if plan else 0.0 for plan in plans], token, report)
        with run.meter.ticking():
            for index, path in enumerate(paths):
                place = folder / str(index)
                place.mkdir()
                try:
                    check_pixels(path, most)
                    picture = read_fitting(chain, wishes.options, path)
                    with run.of(index, picture, path.name) as result:
                        shown = _shown(path, wishes, picture, result, place)
                    yield shown
                except (UserError, MemoryError) as error:
                    run.meter.failed(index)
                    yield Shown(path, wishes, printable(told(error, path)))


def compare_picture(
    choice: EngineChoice, shown: Shown, label: str, folder: Path, token: CancelToken, report: Report
) -> Shown:
    """The same picture by other engines as well, with the same options. UserError, MemoryError, Cancelled."""
    wishes = replace(shown.wishes, engines=label)
    first, (height, width) = shown.wishes.engines, shown.size
    with choice.turn(token.check):
        report(0.0, "getting ready")
        chain = fitting(choice, wishes)
        picture = read_fitting(chain, wishes.options, shown.source)
        plan = plan_of(chain, (picture.rgb.height, picture.rgb.width), wishes.options)
        run = Run(choice, chain, wishes, [plan.work], token, report)
        with run.meter.ticking(), run.of(0, picture, shown.name) as result:
            if result.image.size != (width, height):
                raise UserError(
                    f"{label}: {result.image.width}×{result.image.height} pixels",
                    f"expected {width}×{height}",
                    "choose a model of the same scale",
                )
            other = _shrunk(result.image)
            with Image.open(shown.looks["result"]) as image:
                looks = {"other": other, "difference": difference(image, other)}
            return replace(
                shown,
                looks={**shown.looks, **{name: _look(image, folder / name) for name, image in looks.items()}},
                other=label,
                figures={first: shown.figures[first], label: Figures.of(result)},
            )


def try_out(choice: EngineChoice, path: Path, token: CancelToken) -> None:
    """Run what is open on a small picture, so that there is a pace before anybody's first one."""
    label = choice.open_label
    if label is None:
        return
    with choice.turn(token.check):
        chain, options = choice.chain(label), Options()
        plan = plan_of(chain, header_size(path), options)

        def watch(_part: str, _done: int, _count: int) -> None:
            token.check()

        result = super_resolve(chain, read_picture(path).given, options, watch)
        choice.paces[label] = sum(result.seconds.values()) / plan.work


def fitting(choice: EngineChoice, wishes: Wishes) -> Chain:
    """The engines that were chosen, at the scale that was; UserError where they do not load or cannot run so."""
    chain = rescaled(choice.chain(wishes.engines), wishes.scale)
    check_options(wishes.options, chain)
    return chain


def told(error: Exception, path: Path) -> str:
    """What went wrong with a picture, without the server's folders."""
    message = str(error) or "out of memory; a smaller tile needs less"
    return message.replace(str(path), path.name)


def plan_or_none(chain: Chain, path: Path, options: Options, most: int) -> Plan | None:
    """None for what is no picture, or does not fit: whatever it is will be told when its turn comes."""
    size = header_size(path)
    try:
        check_pixels(path, most)
        return plan_of(chain, size, options) if math.prod(size) else None
    except UserError:
        return None


def _shown(path: Path, wishes: Wishes, picture: Picture, result: SRResult, folder: Path) -> Shown:
    """Write the file and the looks."""
    file = folder / f"{path.stem}.{form_of(path) if wishes.form == OWN_FORMAT else wishes.form}"
    background = wishes.options.background
    save_image(result.image, file, picture, background=background, deep=result.deep)
    looks = {"bicubic": result.bicubic, "result": result.image}
    return Shown(
        path,
        wishes,
        _line(path.name, result.image, [*picture.notes, *as_written(picture, file, background).notes]),
        file,
        (result.image.height, result.image.width),
        {name: _look(_shrunk(image), folder / name) for name, image in looks.items()},
        figures={wishes.engines: Figures.of(result)},
    )


def check_pixels(path: Path, most: int) -> None:
    """`infer`'s own limit, or a smaller one, from the header alone."""
    height, width = header_size(path)
    limit = min(most, MAX_PIXELS)
    if width * height > limit:
        raise UserError(
            f"{path}: {width}×{height} pixels",
            f"expected at most {limit / 1e6:g} megapixels",
            "crop or shrink it first",
        )


def form_of(path: Path) -> str:
    with opened(path) as image:
        return FORMATS.get(image.format or "", "png")


def _shrunk(image: Image.Image) -> Image.Image:
    """As it is shown."""
    pixels = image.width * image.height
    if pixels <= SHOWN_PIXELS:
        return image
    share = (SHOWN_PIXELS / pixels) ** 0.5
    return image.resize((round(image.width * share), round(image.height * share)))


def _look(image: Image.Image, folder: Path) -> Path:
    """A PNG in a folder of its own."""
    folder.mkdir()
    path = folder / "picture.png"
    image.save(path, compress_level=1)
    return path


def _line(name: str, image: Image.Image, notes: list[str]) -> str:
    return printable(f"{name}: {', '.join([f'{image.width}×{image.height} pixels', *notes])}")
