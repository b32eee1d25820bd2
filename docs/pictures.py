"""The pictures of README and docs that show results, from what `make demo` left for both models.

    make demo && make demo MODEL=demo/realesrgan
    python -m docs.pictures                          # or some: python -m docs.pictures face page

Each names, in its JPEG comment, the calibrations that it shows; `tests/test_docs_pictures.py` holds them to the
committed ones. The page and the report need Chromium. Charts come from the benchmarks that measure them: CHARTS.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.pictures.pictures import read_picture, upscale
from passionsr_trt.runtime.apps.report_pictures import comparison_sheet, labelled_row, overview
from PIL import Image

DOCS, OUT, PHOTOS = Path("docs"), Path("demo/out"), Path("demo/photos")
RESULTS = {"demo/model": OUT, "demo/realesrgan": OUT / "realesrgan"}  # of `make demo`
NAMES = {"demo/model": "demo diffusion model", "demo/realesrgan": "Real-ESRGAN general x4"}  # the font has no ×
CHARTS = {  # drawn by whom
    "quality.png": "benchmarks/quality.py",
    "scaling.png": "benchmarks/scaling.py",
    "seams.jpg": "benchmarks/seams.py",
}
FACE = {"demo/model": ("coffee", 90, 0), "demo/realesrgan": ("chelsea", 20, 0)}  # photo, left, top
DIFFERENCES = ("coffee", "china")
SIDE, CROP, SCALE, QUALITY = 400, 256, 4, 90
SCREEN = {"width": 960, "height": 640}


def calibrations() -> dict[str, str]:
    """Model → the digest of the calibration that its results are of."""
    return {model: str(OnnxBundle.load(out / "onnx" / "int8").calibration_key) for model, out in RESULTS.items()}


def versions(model: str, photo: str) -> dict[str, Image.Image]:
    """What there is of a photo, in one size."""
    low = read_picture(PHOTOS / "lr" / f"{photo}.png").rgb
    pictures = RESULTS[model] / "pictures"
    return {
        "low resolution": low.resize((low.width * SCALE, low.height * SCALE), Image.Resampling.NEAREST),
        "bicubic": upscale(low, SCALE),
        "float": read_picture(pictures / "fp32" / f"{photo}.png").rgb,
        "INT8": read_picture(pictures / "int8" / f"{photo}.png").rgb,
        "original": read_picture(PHOTOS / "hr" / f"{photo}.png").rgb,
    }


def face() -> Image.Image:
    """Low resolution, INT8 and the original of one photo by each model."""
    rows = []
    for model, (photo, left, top) in FACE.items():
        found = versions(model, photo)
        box = (left, top, left + SIDE, top + min(SIDE, found["original"].height))
        panels = [(name, found[name].crop(box)) for name in ("low resolution", "INT8", "original")]
        rows.append(labelled_row(panels, f"{NAMES[model]}, {photo}"))
    return overview(rows)


def differences() -> Image.Image:
    """Bicubic, float, INT8 and the difference of the last two, of three photos by each model."""
    rows = []
    for model in RESULTS:
        for photo in DIFFERENCES:
            found = versions(model, photo)
            panels = [(name, found[name]) for name in ("bicubic", "float", "INT8")]
            rows.append(comparison_sheet(panels, f"{NAMES[model]}, {photo}", CROP // 2))
    return overview(rows, limit=len(rows))


def drawn() -> Image.Image:
    """`compare --drawn`'s sheet of Real-ESRGAN, which loses more on them than the demo's model."""
    return read_picture(RESULTS["demo/realesrgan"] / "compare" / "drawn.png").rgb.reduce(2)


def page() -> Image.Image:
    """`serve`, when an example has been enlarged."""
    from tests.serving import served

    engines = [RESULTS["demo/realesrgan"] / name for name in ("engines", "float")]
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *engines) as server:

        def show(opened: Any) -> None:
            opened.get_by_role("button", name="Example: cat").click()
            opened.wait_for_selector("#plan li")
            opened.click("#go")
            opened.wait_for_selector("#viewer img.shown")
            opened.click("#compare")
            opened.wait_for_function("document.querySelectorAll('#viewer .left option').length === 4")

        return screenshot(server.address, "#go", show, whole=True)


def report() -> Image.Image:
    """The page that `quantize` leaves, at its pictures."""

    def show(opened: Any) -> None:
        opened.locator(".slider, figure").first.scroll_into_view_if_needed()

    return screenshot((OUT / "report.html").resolve().as_uri(), "body", show, whole=False)


def screenshot(address: str, ready: str, show: Callable[[Any], None], whole: bool) -> Image.Image:
    """Of a page in Chromium, after `show` has brought it there; whole: with what lies below its screen."""
    from tests.browser import browser

    with browser() as opened:
        context = opened.new_context(viewport=SCREEN)
        tab = context.new_page()
        tab.goto(address)
        tab.wait_for_selector(ready)
        show(tab)
        tab.wait_for_timeout(500)
        content = tab.screenshot(full_page=whole)
        context.close()
    return Image.open(io.BytesIO(content)).convert("RGB")


PICTURES: dict[str, Callable[[], Image.Image]] = {
    drawer.__name__: drawer for drawer in (face, differences, drawn, page, report)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], metavar="NAME", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    try:
        comment = json.dumps(calibrations()).encode()
        for name in names:
            path = DOCS / f"{name}.jpg"
            file = io.BytesIO()
            PICTURES[name]().save(file, "JPEG", quality=QUALITY, comment=comment)
            write_atomic(path, file.getvalue())
            print(path)
    except UserError as error:
        print(f"error: {error}; make demo and make demo MODEL=demo/realesrgan come first", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
