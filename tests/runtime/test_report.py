"""compare --html and benchmark --html: one file, opened from the disk with the network off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.runtime.apps import html_report
from passionsr_trt.runtime.apps.report_pictures import CROP, LARGEST_VIEW, view, window_around, worst_crop
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.browser import HEIGHT, WIDTHS, browser, grave_findings, needs_browser
from tests.conftest import DEMO, Built

SENSITIVITY = {
    "psnr": 40.0,
    "ports": [
        {"port": "mild", "sites": ["a"], "macs_share": 0.5, "psnr_alone": 50.0, "gain_if_float": 0.1},
        {
            "port": "costly",
            "sites": ["b", "c"],
            "macs_share": 0.25,
            "psnr_alone": 41.0,
            "gain_if_float": 0.9,
            "clipped": 0.01234,
        },
    ],
}


@pytest.fixture(scope="module")
def report(small: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two photos; one's name would be markup."""
    out = tmp_path_factory.mktemp("report")
    photos = out / "in"
    photos.mkdir()
    for name, source in (("<b>&.png", "chelsea"), ("coffee.png", "coffee")):
        with Image.open(DEMO / "photos" / "lr" / f"{source}.png") as image:
            image.crop((0, 0, 64, 48)).save(photos / name)
    (out / "sensitivity.json").write_text(json.dumps(SENSITIVITY))
    command = ["compare", str(photos), "--reference", str(small.onnx_fp32), "--engines", str(small.engines_int8)]
    command += ["-o", str(out / "compare"), "--parts-on", "1", "--sensitivity", str(out / "sensitivity.json")]
    assert main([*command, "--html", str(out / "report.html")]) == 0
    return out / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


class Addresses(HTMLParser):
    """Whatever a page would load or lead to, and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, _tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]


def test_a_report_holds_all_it_shows_and_the_command(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert all(address.startswith(("data:image/webp", "#")) for address in Addresses(text).found)
    assert not re.search(r"url\(|@import", text)
    assert "<b>&.png" not in text and "&lt;b&gt;&amp;.png" in text
    for words in ("passionsr-trt compare", "--parts-on 1", "openvino 20", "unet", "SNR, dB"):
        assert words in text
    assert "1.234 %" in text and "The ports that clip most" in text
    assert text.index("costly") < text.index("mild"), "the costliest site comes first"
    figures = json.loads((report.parent / "compare" / "comparison.json").read_text())
    worst = min(figures["images"].values(), key=lambda row: row["to_float"]["psnr"])["to_float"]["psnr"]
    shown = [float(found) for found in re.findall(r"<small>(\d+\.\d\d) dB, SSIM", text)]
    assert shown == sorted(shown) and shown[0] == pytest.approx(worst, abs=0.005)
    assert [path.name for path in report.parent.iterdir() if path.name.startswith(".")] == []


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_works_from_a_file_without_a_network(report: Path, chromium: Any, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": HEIGHT}, offline=True)
    page = context.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(report.as_uri())
    page.wait_for_load_state("load")
    assert {address for address in asked if not address.startswith("data:")} == {report.as_uri()}
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page is no wider than the screen"
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")

    slider = page.locator(".slider").first
    right, left = slider.locator("img.shown").last, slider.locator("img.shown").first
    assert "inset(0px 0px 0px 50%)" in right.evaluate("(image) => getComputedStyle(image).clipPath")
    slider.locator(".divider").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert "60%" in right.evaluate("(image) => getComputedStyle(image).clipPath")
    slider.locator(".stack").scroll_into_view_if_needed()
    box = slider.locator(".stack").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 10)
    page.mouse.up()
    assert slider.locator(".divider").input_value() == "25"
    slider.locator(".right").select_option(label="bicubic")
    assert "bicubic" in slider.locator("img.shown").last.get_attribute("alt")
    assert "float" in left.get_attribute("alt")
    slider.locator(".zoom").select_option("2")
    assert slider.locator(".stack").evaluate("(stack) => stack.offsetWidth") == 2 * 128
    assert grave_findings(page) == [] and faults == []
    context.close()


@pytest.mark.slow
@needs_browser
def test_a_benchmark_report_has_every_contestant(small: Built, tmp_path: Path, chromium: Any) -> None:
    command = ["benchmark", "--engines", str(small.engines_int8), "--baseline", str(small.engines_fp32)]
    command += ["-o", str(tmp_path / "out"), "--size", "64x64", "--profile", "--html", str(tmp_path / "b.html")]
    assert main(command) == 0
    context = chromium.new_context(viewport={"width": 390, "height": HEIGHT}, offline=True)
    page = context.new_page()
    page.goto((tmp_path / "b.html").as_uri())
    text = page.inner_text("main")
    assert "OpenVINO INT8" in text and "OpenVINO FP32" in text and "--size 64x64" in text
    assert "Convolution" in text or "MatMul" in text, "kernels, with --profile"
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert grave_findings(page) == []
    context.close()
    figures = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    del figures["profile"]
    html_report.write_benchmark(tmp_path / "b.html", figures, html_report.stated(figures["conditions"], "command"))
    assert "kernel" not in Addresses((tmp_path / "b.html").read_text()).words


def test_what_cannot_be_written_or_read_is_said_before_the_work(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(photo), "--reference", str(small.onnx_fp32), "--engines", str(small.engines_int8)]
    command += ["-o", str(tmp_path / "out")]
    (tmp_path / "bad.json").write_text('{"psnr": 1, "ports": [{}]}')
    for more, status, words in (
        (["--html", str(tmp_path / "report.txt")], 2, "expected a file name ending in .html"),
        (["--sensitivity", str(tmp_path / "bad.json")], 2, "expected --html as well"),
        (["--html", str(tmp_path / "r.html"), "--sensitivity", str(tmp_path / "bad.json")], 1, "lists no sites"),
        (["--html", str(tmp_path / "r.html"), "--sensitivity", str(tmp_path / "none.json")], 1, "no such file"),
    ):
        assert main([*command, *more]) == status
        assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json"]


def test_the_worst_square_is_found_and_shown() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 200, (900, 1600, 3), dtype=np.uint8)
    second = first.copy()
    second[500:560, 1300:1380] += 40
    pictures = {"float": Image.fromarray(first), "INT8": Image.fromarray(second)}
    left, top, right, bottom = worst_crop(*pictures.values())
    assert left <= 1300 and right >= 1380 and top <= 500 and bottom >= 560 and right - left == CROP
    shown = window_around((left, top, right, bottom), (1600, 900))
    assert shown[2] - shown[0] == LARGEST_VIEW and shown[0] <= left and shown[2] >= right and shown[3] == 900
    row = {"to_float": {"psnr": 30.0, "ssim": 0.9, "lpips": 0.1}}
    made = view("large", row, pictures)
    assert made.shown == shown and made.crop_psnr < 30 and made.panels[0].width == LARGEST_VIEW
    tiny = Image.fromarray(first[:20, :30])
    assert worst_crop(tiny, tiny) == (0, 0, 30, 20)


def test_only_the_worst_of_many_pictures_are_held() -> None:
    image = Image.new("RGB", (8, 8))
    views = [
        view(str(index), {"to_float": {"psnr": float(index)}}, {"float": image, "INT8": image})
        for index in range(html_report.MOST_VIEWS + 20)
    ]
    held = html_report.kept(views)
    assert {one.name for one in html_report.worst_pictures(views)} <= {one.name for one in held}
    assert len(held) <= html_report.MOST_VIEWS + html_report.MOST_CROPS
