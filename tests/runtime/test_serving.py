"""serve, as people use it: in headless Chromium, and through Gradio's client."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.runtime.main import main
from PIL import ExifTags, Image, ImageCms

from tests.browser import HEIGHT, WIDTHS, browser, grave_findings, needs_browser
from tests.conftest import DEMO, ROOT, Built
from tests.serving import PATIENCE, Served, needs_gradio, served, wait_for

pytestmark = [pytest.mark.slow, needs_gradio]
COMING = PATIENCE * 1000  # milliseconds
TILES_DONE = "/tile (?!1 of)[0-9]+ of/.test(document.querySelector('#status').innerText)"
DROP = """([zone, name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name));
  zone.dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: carried}));
}"""


@pytest.fixture(scope="module")
def server(small: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), small.engines_int8, small.engines_fp32) as running:
        yield running
    assert "127.0.0.1" in running.asked() <= {"127.0.0.1", "localhost"}, "Gradio looks whether it is there itself"
    assert "Traceback" not in running.log.read_text(encoding="utf-8"), running.log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turned photo with a colour profile, an author and a place."""
    path = tmp_path_factory.mktemp("jpeg") / "turned photo.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Somebody"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (1.0, 2.0, 3.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(DEMO / "photos" / "lr" / "chelsea.png") as image:
        image.convert("RGB").save(path, exif=exif, icc_profile=profile)
    return path


@contextmanager
def visitor(chromium: Any, server: Served, width: int = 1280) -> Iterator[Any]:
    """A page of somebody's own; whatever it asks of others than the server is a failure."""
    context = chromium.new_context(viewport={"width": width, "height": HEIGHT}, accept_downloads=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.address)
    page.wait_for_selector("#go", timeout=COMING)
    try:
        yield page
    finally:
        context.close()
    assert [url for url in asked if not url.startswith((server.address, "data:", "blob:"))] == []


def drop(page: Any, path: Path) -> None:
    """A file on the page, as a mouse drops one."""
    zone = page.locator("#pictures button").first.element_handle()
    page.evaluate(DROP, [zone, path.name, base64.b64encode(path.read_bytes()).decode()])
    page.wait_for_selector("#pictures .file-preview", timeout=COMING)


def choose(page: Any, *paths: Path) -> None:
    page.set_input_files("#pictures input[type=file]", [str(path) for path in paths])
    page.wait_for_selector("#pictures .file-preview", timeout=COMING)


def small_tiles(page: Any) -> None:
    page.click("#more button")
    page.fill("#tile input", "128")


def line(page: Any) -> str:
    return str(page.input_value("#status textarea"))


def finished(page: Any) -> str:
    """What happened, when it has."""
    page.wait_for_function("document.querySelector('#go').disabled === false", timeout=COMING)
    page.wait_for_function("document.querySelector('#status textarea').value !== ''", timeout=COMING)
    return line(page)


def downloaded(page: Any) -> bytes:
    with page.expect_download() as waiting:
        page.locator("#files a").first.click()
    return Path(waiting.value.path()).read_bytes()


def inferred(engines: Path, path: Path, out: Path, *options: str) -> bytes:
    target = out / f"result{path.suffix}"
    assert main(["infer", str(path), "-o", str(target), "--engines", str(engines), *options]) == 0
    return target.read_bytes()


def black(path: Path, side: int) -> Path:
    """A square PNG of zeros, written without ever holding it."""
    row, packer = bytes(1 + (side + 7) // 8), zlib.compressobj()
    data = b"".join([packer.compress(row * side), packer.flush()])
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    written = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    return path


@needs_browser
def test_a_dropped_picture_comes_back_as_infer_writes_it_and_goes_when_one_leaves(
    server: Served, chromium: Any, small: Built, jpeg: Path, tmp_path: Path
) -> None:
    with visitor(chromium, server) as page:
        drop(page, jpeg)
        small_tiles(page)
        page.click("#go")
        page.wait_for_function(TILES_DONE, timeout=COMING, polling=20)
        assert "turned photo.jpg: 150×224 pixels" in finished(page)
        found = downloaded(page)
        page.locator("#viewer .divider").focus()
        page.keyboard.press("End")
        left, right = page.locator("#viewer .left option:checked"), page.locator("#viewer img.shown").last
        assert left.inner_text() == "plain enlargement" and "100%" in right.evaluate(
            "(image) => image.style.clipPath"
        )
        assert server.files(), "there is something to go"
    assert found == inferred(small.engines_int8, jpeg, tmp_path, "--tile", "128")
    (tmp_path / "found.jpg").write_bytes(found)
    with Image.open(tmp_path / "found.jpg") as written, Image.open(jpeg) as source:
        assert written.info["icc_profile"] == source.info["icc_profile"]
        exif = written.getexif()
        assert exif[ExifTags.Base.Artist] == "Somebody" and ExifTags.Base.Orientation not in exif
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (1.0, 2.0, 3.0)
    wait_for(lambda: server.files() == [], lambda: str(server.files()))


@needs_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_its_screen_and_can_be_read_and_used_by_all(
    server: Served, chromium: Any, photo: Path, width: int
) -> None:
    with visitor(chromium, server, width) as page:
        assert grave_findings(page) == []
        choose(page, photo)
        page.focus("#go")
        page.keyboard.press("Enter")
        finished(page)
        page.wait_for_selector("#viewer img.shown", timeout=COMING)
        page.select_option("#viewer .zoom", "2")
        assert page.locator("#viewer .stack").evaluate("(stack) => stack.offsetWidth") == 2 * 224
        page.click("#details button")
        page.wait_for_selector("#seconds table", timeout=COMING)
        assert page.locator("#seconds").evaluate("(one) => one.scrollWidth <= one.clientWidth"), "nothing is cut"
        assert page.locator("[aria-label*=hare]").count() == 0, "nothing is sent elsewhere"
        page.wait_for_function("getComputedStyle(document.querySelector('#go')).opacity === '1'", timeout=COMING)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert grave_findings(page) == []


@needs_browser
def test_what_will_be_is_said_first_and_other_engines_run_only_when_asked(server: Served, chromium: Any) -> None:
    with visitor(chromium, server) as page:
        page.get_by_role("button", name="Example: cat").click()
        page.wait_for_function(
            "/112×75 → 224×150, /.test(document.querySelector('#plan').innerText)", timeout=COMING
        )
        assert page.locator("#plan img").evaluate("(image) => image.complete && image.naturalWidth") == 96
        small_tiles(page)
        page.wait_for_function("/ 18 tiles/.test(document.querySelector('#plan').innerText)", timeout=COMING)
        page.click("#go")
        assert finished(page) == "cat.png: 224×150 pixels"
        page.wait_for_selector("#viewer img.shown", timeout=COMING)
        names = page.locator("#viewer .left option").all_inner_texts()
        assert names == ["plain enlargement", "INT8"]
        result = page.locator("#viewer img.shown").last.get_attribute("src")
        page.click("#compare")
        page.wait_for_function("document.querySelectorAll('#viewer .left option').length === 4", timeout=COMING)
        names = page.locator("#viewer .left option").all_inner_texts()
        assert names == ["FP32", "INT8", "difference ×8", "plain enlargement"]
        assert page.locator("#viewer img.shown").last.get_attribute("src") == result, "it is not made again"
        assert finished(page) == "cat.png: compared with FP32"
        page.locator("#pictures [aria-label=Clear]").click()
        page.wait_for_function("document.querySelector('#plan li') === null", timeout=COMING)


@needs_browser
def test_bad_pictures_have_the_lines_that_infer_has(
    server: Served,
    chromium: Any,
    small: Built,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken, huge = tmp_path / "broken.png", black(tmp_path / "huge.png", 20_000)
    broken.write_bytes(photo.read_bytes()[:5000])
    bad = [broken, huge]
    command = ["infer", *map(str, bad), "-o", str(tmp_path / "out"), "--engines", str(small.engines_int8)]
    assert main(command) == 1
    told = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines() if "error: " in line]
    with visitor(chromium, server) as page:
        choose(page, broken, huge, photo)
        page.wait_for_function("document.querySelectorAll('#plan li').length === 3", timeout=COMING)
        planned = page.inner_text("#plan")
        page.click("#go")
        page.wait_for_function(
            "document.querySelector('#status textarea').value.split('\\n').length === 3", timeout=COMING
        )
        lines = finished(page).split("\n")
        assert page.locator("#files a").count() == 1
    assert lines[0] == told[0].replace(f"{tmp_path}/", "") and "truncated" in lines[0]
    assert lines[1] == told[1].replace(f"{tmp_path}/", "") and "at most 64 megapixels" in lines[1]
    assert lines[2].startswith("chelsea.png: 224×150 pixels")
    assert "truncated" in planned and "at most 64 megapixels" in planned, "it is said before"


@needs_browser
def test_two_people_take_turns_and_one_gives_up(
    server: Served, chromium: Any, small: Built, photo: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    with Image.open(photo) as image:
        image.resize((800, 600)).save(large)
    with visitor(chromium, server) as first, visitor(chromium, server) as second:
        choose(first, large)
        small_tiles(first)
        first.click("#go")
        first.wait_for_function(TILES_DONE, timeout=COMING, polling=20)
        choose(second, photo)
        second.click("#go")
        second.wait_for_function("/queue/.test(document.querySelector('#status').innerText)", timeout=COMING)
        first.click("#stop")
        first.wait_for_function(
            "document.querySelector('#status textarea').value === 'cancelled; 0 of 1 pictures done'",
            timeout=COMING,
        )
        assert first.locator("#files a").count() == 0
        assert "chelsea.png: 224×150 pixels" in finished(second)
        assert downloaded(second) == inferred(small.engines_int8, photo, tmp_path)
        first.fill("#tile input", "-1")
        first.locator("#pictures [aria-label=Clear]").click()
        choose(first, photo)
        first.click("#go")
        first.wait_for_function(
            "document.querySelector('#status textarea').value.startsWith('chelsea.png: 224')", timeout=COMING
        )
    wait_for(lambda: server.files() == [], lambda: str(server.files()))


def test_the_api_of_the_docs_gives_what_infer_writes(
    server: Served, small: Built, photo: Path, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "seen.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    example = tmp_path / "example.py"
    example.write_text(code.replace("http://127.0.0.1:7860", server.address).replace("photo.png", photo.name))
    (tmp_path / photo.name).write_bytes(photo.read_bytes())
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chelsea.png: 224×150 pixels" in done.stdout
    (found,) = (tmp_path / "out").rglob("*.png")
    assert found.read_bytes() == inferred(small.engines_int8, photo, tmp_path, "--align", "wavelet")
    wait_for(lambda: server.files() == [], lambda: str(server.files()))


def test_what_the_page_is_opened_to_is_said_and_a_taken_port_too(
    server: Served, small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, small.engines_int8, options=("--host", "0.0.0.0")) as open_to_all:
        log = open_to_all.log.read_text(encoding="utf-8")
    assert "warning: --host 0.0.0.0: whoever reaches this machine can use the page" in log
    assert "warning" not in server.log.read_text(encoding="utf-8")
    port = server.address.rsplit(":", 1)[1].strip("/")
    command = [sys.executable, "-m", "passionsr_trt.runtime.main", "serve", "--port", port]
    done = subprocess.run(
        [*command, "--engines", str(small.engines_int8)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: --port {port}: cannot be listened to")
    assert main(["serve", "--engines", str(tmp_path / "nothing"), "--port", "7999"]) == 1
    assert "no manifest.json" in capsys.readouterr().err


def test_a_server_that_ends_at_work_leaves_nothing(small: Built, photo: Path, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    large = tmp_path / "large.png"
    with Image.open(photo) as image:
        image.resize((800, 600)).save(large)
    with served(tmp_path, small.engines_int8) as running:
        client = Client(running.address, verbose=False)
        job = client.submit([handle_file(str(large))], tile=128, api_name="/upscale")
        wait_for(lambda: any(update.desc for update in job.status().progress_data or []))
    log = running.log.read_text(encoding="utf-8")
    assert running.process.returncode == 130 and "Traceback" not in log, log
    client.close()
