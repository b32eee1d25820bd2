"""From an uploaded picture to what the page shows of it. Files are written as `infer` writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.pictures.pictures import MAX_PIXELS, header_size, opened
from passionsr_trt.runtime.apps.report_pictures import difference
from passionsr_trt.runtime.apps.serving.engines import EngineChoice
from passionsr_trt.runtime.apps.serving.sessions import CancelToken
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.core.files import read_fitting
from passionsr_trt.runtime.core.planning import Options, check_options
from passionsr_trt.runtime.core.upscaler import SRResult, super_resolve
from passionsr_trt.runtime.pictures.images import as_written, save_image
from PIL import Image

SHOWN_PIXELS = 16_000_000  # of a picture on the page; larger ones are shown smaller, their files are whole
FORMATS = {"JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}  # inputs given back as they are; others as PNG
OWN_FORMAT = "the input's"
Report = Callable[[float, str], None]  # share that is done, and what is under way


@dataclass(frozen=True)
class Wishes:
    """What was chosen. beside: second engines, None for none; scale: None for the model's own."""

    engines: str
    beside: str | None = None
    scale: int | None = None
    form: str = OWN_FORMAT
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Shown:
    """One picture's outcome: its line, and where it went well its file, what is looked at, and seconds.

    file: in the chosen format, what `infer` writes. looks: PNGs, `bicubic` and `result`, with second engines
    `other` and `difference`. seconds: engines → part → seconds.
    """

    name: str
    line: str
    file: Path | None = None
    looks: Mapping[str, Path] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Meter:
    """How far the work is, by the arithmetic of what is done, and how long the rest will take."""

    def __init__(self, token: CancelToken, report: Report, runs: int) -> None:
        self.token, self.report, self.runs = token, report, runs
        self.finished = 0
        self.name, self.label = "", ""
        self.costs: dict[str, int] = {}
        self.began = time.monotonic()

    def start(self, chain: Chain, name: str) -> None:
        """The next run: one picture through one chain."""
        self.token.check()
        self.name, self.label = name, chain.label
        self.costs = {part.name: sum(site.macs for site in part.sites) or 1 for part in chain.parts}

    def watch(self, part: str, done: int, count: int) -> None:
        """A `tiling.Watch`."""
        self.token.check()
        before = 0
        for name, cost in self.costs.items():
            if name == part:
                break
            before += cost
        share = (before + self.costs[part] * done / count) / sum(self.costs.values())
        whole = (self.finished + share) / self.runs
        elapsed = time.monotonic() - self.began
        left = f", about {elapsed * (1 - whole) / whole:.0f} s left" if whole and elapsed > 1 else ""
        tile = f"tile {min(done + 1, count)} of {count}" if count > 1 else "the whole picture"
        self.report(whole, f"{self.name}, {self.label}, {part}: {tile}{left}")


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
    labels = [wishes.engines, *([wishes.beside] if wishes.beside and wishes.beside != wishes.engines else [])]
    meter = Meter(token, report, len(paths) * len(labels))
    with choice.turn(token.check):
        for index, path in enumerate(paths):
            place = folder / str(index)
            place.mkdir()
            try:
                yield _upscale(choice, path, labels, wishes, place, meter, most)
            except (UserError, MemoryError) as error:
                message = str(error) or "out of memory; a smaller tile needs less"
                yield Shown(path.name, printable(message.replace(str(path), path.name)))
            meter.finished = (index + 1) * len(labels)


def _upscale(
    choice: EngineChoice, path: Path, labels: list[str], wishes: Wishes, folder: Path, meter: Meter, most: int
) -> Shown:
    check_pixels(path, most)
    results: dict[str, SRResult] = {}
    for label in sorted(labels, key=lambda label: label != choice.open_label):  # what is loaded first
        chain = rescaled(choice.chain(label), wishes.scale)
        check_options(wishes.options, chain)
        picture = read_fitting(chain, wishes.options, path)
        meter.start(chain, path.name)
        results[label] = super_resolve(chain, picture.given, wishes.options, meter.watch)
        meter.finished += 1
    result = results[labels[0]]
    file = folder / f"{path.stem}.{form_of(path) if wishes.form == OWN_FORMAT else wishes.form}"
    background = wishes.options.background
    save_image(result.image, file, picture, background=background, deep=result.deep)
    looks = {"bicubic": result.bicubic, "result": result.image}
    if len(labels) > 1:
        other = results[labels[1]].image
        if other.size != result.image.size:
            raise UserError(
                f"{labels[1]}: {other.width}×{other.height} pixels",
                f"expected {result.image.width}×{result.image.height}",
                "choose engines of one scale",
            )
        looks |= {"other": other, "difference": difference(result.image, other)}
    return Shown(
        path.name,
        _line(path.name, [*picture.notes, *as_written(picture, file, background).notes], result),
        file,
        {name: _look(image, folder / name) for name, image in looks.items()},
        {label: results[label].seconds for label in labels},
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


def _look(image: Image.Image, folder: Path) -> Path:
    """A PNG in a folder of its own, shrunk where it is large."""
    pixels = image.width * image.height
    if pixels > SHOWN_PIXELS:
        share = (SHOWN_PIXELS / pixels) ** 0.5
        image = image.resize((round(image.width * share), round(image.height * share)))
    folder.mkdir()
    path = folder / "picture.png"
    image.save(path, compress_level=1)
    return path


def _line(name: str, notes: list[str], result: SRResult) -> str:
    facts = [f"{result.image.width}×{result.image.height} pixels", f"{sum(result.seconds.values()):.2f} s"]
    if result.tiles:
        facts.append(str(result.tiles))
    return printable(f"{name}: {', '.join([*facts, *notes])}")
