"""The pictures of README and docs are of the committed calibrations, and each has a script that draws it."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from docs.pictures import CHARTS, PICTURES
from tests.conftest import HAS_TORCH, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = {
    (page.parent / link).resolve()
    for page in PAGES
    for link in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text("utf-8"))
}


def test_every_picture_that_is_shown_has_its_script() -> None:
    made = {ROOT / "docs" / f"{name}.jpg" for name in PICTURES}
    assert made <= SHOWN, "a picture that no page shows"
    assert {path.name: path.relative_to(ROOT).parts[0] for path in SHOWN - made} == dict.fromkeys(
        CHARTS, "benchmarks"
    )
    assert all((ROOT / script).is_file() for script in CHARTS.values())


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: reads calibrations")
@pytest.mark.parametrize("name", PICTURES)
def test_it_shows_the_committed_calibrations(name: str) -> None:
    """`python -m docs.pictures` makes them anew."""
    with Image.open(ROOT / "docs" / f"{name}.jpg") as image:
        shown = json.loads(image.info["comment"])
    assert shown == committed()


def committed() -> dict[str, str]:
    """Model → its committed calibration's digest."""
    from passionsr_trt.export.families.weights import model_digest
    from passionsr_trt.export.quantize.calibration import find_calibration

    models = ("demo/model", "demo/realesrgan")
    return {model: find_calibration(ROOT / "calib_cache", model_digest(ROOT / model)).digest for model in models}
