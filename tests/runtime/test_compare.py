"""compare and benchmark: the reports and what they refuse."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.extras import install_hint
from passionsr_trt.engines.pictures.drawn_set import DRAWN, EXTREME
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.runtime.apps import compare as compare_module
from passionsr_trt.runtime.apps.benchmark import summarize
from passionsr_trt.runtime.apps.compare import find_truths
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, Built
from tests.engines.test_picture_files import put

PHOTOS = ("chelsea", "coffee")


def compare(built: Built, out: Path, *more: str, photos: Path = DEMO / "photos" / "lr") -> int:
    paths = [str(photos / f"{name}.png") for name in PHOTOS]
    command = ["compare", *paths, "--reference", str(built.onnx_fp32), "--engines", str(built.engines_int8)]
    return main([*command, "-o", str(out), *more])


def write_crops(folder: Path) -> None:
    """Of both photos the middle, 64×64 low-resolution pixels, and the same of their originals."""
    for kind, scale in (("lr", 1), ("hr", 4)):
        (folder / kind).mkdir(parents=True)
        for name in PHOTOS:
            with Image.open(DEMO / "photos" / kind / f"{name}.png") as photo:
                photo.crop(tuple(side * scale for side in (24, 6, 88, 70))).save(folder / kind / f"{name}.png")


def test_the_demo_keeps_its_promise(demo: Built, tmp_path: Path) -> None:
    write_crops(tmp_path / "crops")
    originals = str(tmp_path / "crops" / "hr")
    words = ["--ground-truth", originals, "--min-psnr", "35"]
    assert compare(demo, tmp_path, *words, photos=tmp_path / "crops" / "lr") == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert report["mean"]["to_float"]["psnr"] > 35 and report["mean"]["to_float"]["lpips"] < 0.03
    truth = report["mean"]
    assert abs(truth["tested_to_truth"]["psnr"] - truth["float_to_truth"]["psnr"]) < 0.2
    assert truth["float_to_truth"]["lpips"] < truth["bicubic_to_truth"]["lpips"]
    for part in ("vae_encoder", "unet", "vae_decoder"):
        assert report["parts"][part]["cosine_similarity"] > 0.98, part
    assert list(report["clipped"]) == ["images"]
    assert statistics.median(report["clipped"]["images"].values()) < 0.001, "one port may clip 7 %, most hardly do"
    with Image.open(tmp_path / "chelsea.png") as sheet:
        assert sheet.width > 5 * 256
    assert (tmp_path / "overview.png").is_file()


def test_the_gate_fails_when_the_target_is_missed(
    demo: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_crops(tmp_path / "crops")
    words = ["--min-psnr", "90", "--parts-on", "0"]
    assert compare(demo, tmp_path / "out", *words, photos=tmp_path / "crops" / "lr") == 1
    assert "expected ≥ 90" in capsys.readouterr().err


def test_two_models_are_not_compared(
    demo: Built, small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = Built(demo.onnx_fp32, demo.onnx_int8, demo.engines_fp32, small.engines_int8)
    assert compare(mixed, tmp_path) == 1
    assert "the other bundle's" in capsys.readouterr().err


def test_originals_are_those_of_the_same_sub_folder(tmp_path: Path) -> None:
    low = put(tmp_path / "low", "a_LR4.png", "x/b.png", "y/b.png", "z/c.jpg")
    high = put(tmp_path / "high", "a_HR.png", "x/b.png", "y/b.webp", "only/c.png", "b.txt")
    images = find_pictures([low])[0]
    found = {image.name: find_truths([image], high)[image.path].relative_to(high).as_posix() for image in images}
    assert found == {
        "a_LR4.png": "a_HR.png", "x/b.png": "x/b.png", "y/b.png": "y/b.webp", "z/c.jpg": "only/c.png"
    }  # fmt: skip
    (low / "b.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no original of b\.png; expected one .* in the same sub-folder"):
        find_truths(find_pictures([low / "b.png"])[0], high)


@pytest.mark.slow
def test_sub_folders_and_twins_have_sheets_of_their_own(small: Built, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png"):
        shutil.copy(DEMO / "photos" / "lr" / "chelsea.png", tmp_path / "in" / name)
    words = ["compare", str(tmp_path / "in"), "--reference", str(small.onnx_fp32), "--parts-on", "0"]
    out = tmp_path / "in" / "out"
    for _ in range(2):
        assert main([*words, "--engines", str(small.engines_int8), "-o", str(out)]) == 0
        assert set(json.loads((out / "comparison.json").read_text())["images"]) == {"a.png", "sub/a.png"}
        assert (out / "a.png").is_file() and (out / "sub" / "a.png").is_file()


@pytest.mark.slow
def test_drawn_pictures_are_judged_apart(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_module, "DRAWN_SIDE", 32)
    words = ["--drawn", "--parts-on", "0", "--html", str(tmp_path / "report.html"), "--min-psnr", "1"]
    assert compare(small, tmp_path, *words) == 0
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert set(report["images"]) == {"chelsea.png", "coffee.png"} and set(report["drawn"]["images"]) == set(DRAWN)
    figures = {name: row["to_float"]["psnr"] for name, row in report["drawn"]["images"].items()}
    usual = [figure for name, figure in figures.items() if name not in EXTREME]
    mean, extreme = (report["drawn"][key]["to_float"] for key in ("mean", "mean_of_extreme"))
    assert (mean["psnr"], mean["psnr_worst"]) == (pytest.approx(np.mean(usual)), min(usual))
    assert extreme["psnr_worst"] == min(figures[name] for name in EXTREME)
    assert f"of noise and checkerboard {extreme['psnr']:6.2f} (" in capsys.readouterr().out
    assert list(report["clipped"]) == ["drawn"] and max(report["clipped"]["drawn"].values()) > 0
    with Image.open(tmp_path / "drawn.png") as sheet:
        assert sheet.height > 11 * 64
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    worst = min(figures, key=figures.__getitem__)
    assert f"drawn: {worst}" in text and "On drawn pictures unlike photos" in text


def test_a_quantized_reference_is_refused(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = Built(small.onnx_int8, small.onnx_int8, small.engines_fp32, small.engines_int8)
    assert compare(mixed, tmp_path) == 1
    assert "is quantized" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(64, 64), (192, 128)])
def test_float_engines_equal_onnx_runtime_at_any_size(demo: Built, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32) * 2 - 1
    chains = load_engines(demo.onnx_fp32, provider="cpu"), load_engines(demo.engines_fp32)
    expected, found = (chain.run({"image": image}).tensors[chain.output] for chain in chains)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-4


@pytest.mark.slow
def test_the_benchmark_writes_its_report_and_chart(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "--engines", str(small.engines_int8), "--baseline", str(small.engines_fp32)]
    command += ["--onnx", str(small.onnx_fp32), "-o", str(tmp_path)]
    assert main([*command, "--size", "64x64", "--profile"]) == 0
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(report["seconds"]) == {"OpenVINO INT8", "OpenVINO FP32", "ONNX Runtime FP32"}
    assert any("I8" in kind for kind in report["profile"]["unet"])
    assert {"cpu", "threads", "output_size", "versions", "rounds"} <= set(report["conditions"])
    assert (tmp_path / "benchmark.png").stat().st_size > 1000
    assert main([*command, "--size", "100x64"]) == 2
    assert "--size 100x64; expected multiples of 64" in capsys.readouterr().err
    for wrong in (["--runs", "2"], ["--size", "100"], ["--threads", "-1"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, *wrong])
        assert stop.value.code == 2
    command[4] = str(small.engines_int8)
    assert main([*command, "--size", "64x64"]) == 1
    assert "--baseline float" in capsys.readouterr().err


def test_the_benchmark_without_matplotlib_leaves_the_chart_out(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["benchmark", "--engines", str(small.engines_int8), "--baseline", str(small.engines_fp32)]
    assert main([*words, "-o", str(tmp_path), "--size", "64x64"]) == 0
    said = capsys.readouterr()
    assert "vs fastest float" in said.out and "  benchmark.json in " in said.out
    assert f"no chart: matplotlib is not installed; {install_hint('compare')}" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]


@pytest.mark.parametrize("module", ["skimage", "polygraphy", "jinja2"])
def test_compare_without_its_extras_ends_before_the_work(module: str, small: Built, tmp_path: Path) -> None:
    """In a process of its own: what is loaded already would be found."""
    words = ["compare", str(DEMO / "photos" / "lr"), "--reference", str(small.onnx_fp32)]
    words += ["--engines", str(small.engines_int8), "-o", str(tmp_path / "out")]
    code = (
        f"import sys\nsys.modules[{module!r}] = None\n"
        f"from passionsr_trt.runtime.main import main\nsys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = f"error: {module} is not installed; {install_hint('compare')}\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert not (tmp_path / "out").exists()


def test_ratios_are_of_one_group_and_the_fastest_part_counts() -> None:
    def times(encoder: float, unet: float, decoder: float, speed: float = 1.0) -> dict[str, list[float]]:
        drift = np.array([1.0, 2.0, 1.0, 3.0, 1.0])  # a machine that slows down for everybody
        parts = {"vae_encoder": encoder, "unet": unet, "vae_decoder": decoder}
        parts["chain"] = sum(parts.values())
        return {name: list(drift * seconds / speed) for name, seconds in parts.items()}

    alone = [{"INT8": times(1, 1, 2), "A": times(2, 4, 6), "B": times(3, 2, 8)}]
    # in pairs, on a machine twice as fast while the second pair ran; C is none of the float ones
    pairs = [
        {"INT8": times(1, 1, 2), "A": times(2, 4, 6)},
        {"INT8": times(1, 1, 2, speed=2), "B": times(3, 2, 8, speed=2)},
        {"INT8": times(1, 1, 2), "C": times(1, 1, 1)},
    ]
    for groups, floats in ((alone, ()), (pairs, ("A", "B"))):
        report = summarize(groups, "INT8", floats)
        assert report["speedup"]["A"] == {"vae_encoder": 2, "unet": 4, "vae_decoder": 3, "chain": 3}
        fastest = {"vae_encoder": 2, "unet": 2, "vae_decoder": 3, "chain": 2.5}
        assert report["speedup_over_fastest_parts"] == fastest


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=6, max_size=6), min_size=5, max_size=8))
def test_the_chain_over_the_fastest_parts_lies_between_the_parts(rounds: list[list[float]]) -> None:
    """However the rounds go: a part may be slow in one, another part in the next."""
    names = ("vae_encoder", "unet", "vae_decoder")

    def times(first: int) -> dict[str, list[float]]:
        parts = {name: [each[first + index] for each in rounds] for index, name in enumerate(names)}
        return {**parts, "chain": [sum(each[first : first + 3]) for each in rounds]}

    report = summarize([{"INT8": times(0), "A": times(3)}], "INT8")
    *parts, chain = report["speedup_over_fastest_parts"].values()
    assert min(parts) * (1 - 1e-9) <= chain <= max(parts) * (1 + 1e-9)


def test_the_chain_s_ratio_is_of_one_estimator() -> None:
    """INT8's parts are slow in different rounds: the median of its sums is more than the sum of its medians."""
    ours = {"unet": [1.0, 1.0, 1.0, 9.0, 9.0], "vae_decoder": [9.0, 9.0, 1.0, 1.0, 1.0]}
    ours["chain"] = [10.0, 10.0, 2.0, 10.0, 10.0]
    floats = {"unet": [2.0] * 5, "vae_decoder": [2.0] * 5, "chain": [4.0] * 5}
    report = summarize([{"INT8": ours, "A": floats}], "INT8")
    assert report["speedup"]["A"]["chain"] == 0.4, "the measured wholes, as the table beside it says"
    assert report["speedup_over_fastest_parts"] == {"unet": 2, "vae_decoder": 2, "chain": 2}
