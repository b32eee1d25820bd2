"""quantize: each step is a command that can be typed, what holds is kept, and the page's lines run."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.target_device import target_device
from passionsr_trt.export import quantize_run
from passionsr_trt.export.cli import name_of
from passionsr_trt.export.quantize_cli import device_of
from passionsr_trt.export.quantize_plan import QuantizeRequest, Step, results, steps, write_test_pictures
from passionsr_trt.export.quantize_run import coverage_of, key_of, quantize_model, read_notes, run
from passionsr_trt.runtime import main as console
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, ROOT, TINY, Built, needs_rtx
from tests.export.networks import write_small

PAGE = ROOT / "docs" / "python.md"


def request(tmp_path: Path, device: str) -> QuantizeRequest:
    return QuantizeRequest(tmp_path / "my model", TINY, tmp_path / "out", target_device(device), limit=2)


def commands(asked: QuantizeRequest) -> list[list[str]]:
    """Without their folders: the command and its options."""
    return [[word for word in step.words if "/" not in word] for step in steps(asked)]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passionsr_trt.engines.openvino.compile.openvino_int8_exact", lambda _codes: True)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("device", ["cpu", "RTX 4090", "orin", "8.6"])
def test_every_step_is_a_command_that_can_be_typed(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(console, "run", lambda parser, words: parsed.append(parser.parse_args(words).command) or 0)
    planned = list(steps(request(tmp_path, device)))
    for step in planned:
        assert main(step.words) == 0
    assert parsed == [step.words[0] for step in planned]


@pytest.mark.usefixtures("exact")
def test_the_name_is_given_to_every_export(tmp_path: Path) -> None:
    planned = list(steps(replace(request(tmp_path, "RTX 4090"), name="my network")))
    exports = [step.words for step in planned if step.words[0] == "export"]
    assert len(exports) == 3
    assert all("--name my network" in " ".join(words) for words in exports)
    assert not any("--name" in step.words for step in steps(request(tmp_path, "RTX 4090")))


@pytest.mark.parametrize(
    ("file", "given", "name"),
    [("4x net.pth", None, "4x net"), ("sd/unet", None, "unet"), ("net.pth", "Mine", "Mine"), ("net.pth", "", "")],
)
def test_a_model_is_called_as_its_file_or_folder(tmp_path: Path, file: str, given: str | None, name: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch() if path.suffix else path.mkdir()
    assert name_of(argparse.Namespace(model=path, name=given)) == name


@pytest.mark.usefixtures("exact")
def test_the_device_decides_format_precision_and_what_can_be_done_here(tmp_path: Path) -> None:
    rtx = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9"]
    assert commands(request(tmp_path, "RTX 4090"))[1:] == [
        ["export", "--calibration", "--precision", "fp16", "--images", "--format", "fp8", "-o"],
        ["export", "--float", "-o"],
        ["export", "--float", "--precision", "fp16", "--images", "-o"],
        ["build-engines", "-o", *rtx],
        ["build-engines", "-o", *rtx],
        ["compare", "--reference", "--engines", "-o", "--html"],
        ["predict", "--gpu", "RTX 4090", "-o"],
    ]
    orin = request(tmp_path, "orin")
    assert [words[0] for words in commands(orin)] == ["calibrate", "export", "export", "compare"]
    assert results(orin).engines is None and results(orin).onnx.name == "int8"
    assert [words[0] for words in commands(request(tmp_path, "cpu"))[-2:]] == ["compare", "benchmark"]


def test_a_cpu_that_saturates_gets_codes_that_it_is_exact_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "passionsr_trt.engines.openvino.compile.openvino_int8_exact", lambda codes: codes.high < 64
    )
    calibrate = next(steps(request(tmp_path, "cpu"))).words
    spec = Path(calibrate[calibrate.index("--spec") + 1])
    assert spec.read_text() == '{"weight_code_limit": 63}\n'
    assert "--spec" not in next(steps(request(tmp_path, "RTX 4090"))).words


def test_another_backend_and_format_are_taken_where_they_fit() -> None:
    assert device_of("8.6", "tensorrt-rtx", None).builds_here
    assert device_of("RTX 4090", None, "int8").format.name == "int8"
    for words, message in (
        (("cpu", "tensorrt", None), "--backend tensorrt for this CPU"),
        (("8.9", "openvino", None), "expected one that runs there"),
        (("cpu", None, "fp8"), "expected int8"),
        (("orin", None, "fp8"), r"FP8 on compute capability 8\.7"),
    ):
        with pytest.raises(UserError, match=message):
            device_of(*words)


def test_pictures_to_compare_on_are_small_and_not_the_calibration_s(tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "test"
    images.mkdir()
    for index in range(4):
        Image.new("RGB", (300, 20 + index), (index, 0, 0)).save(images / f"{index}.png")
    (images / "4.png").write_text("no picture")
    write_test_pictures(images, 2, output)
    assert sorted(path.name for path in output.iterdir()) == ["test-0-3.png", "test-1-2.png"]
    with Image.open(output / "test-0-3.png") as image:
        assert image.size == (192, 23) and image.getpixel((0, 0)) == (3, 0, 0)
    write_test_pictures(images, 9, output)
    assert len(list(output.iterdir())) == 4, "calibration saw all there are"
    shutil.rmtree(images)
    images.mkdir()
    (images / "4.png").write_text("no picture")
    with pytest.raises(UserError, match="no picture to compare on"):
        write_test_pictures(images, 2, output)


def test_a_result_is_kept_while_all_that_it_is_made_of_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "picture.png").write_bytes(b"1")
    step = Step(("compare", "a"), (tmp_path / "made",), (tmp_path / "a",))
    key = key_of(step)
    assert key == key_of(step) != key_of(replace(step, words=("compare", "b")))
    assert key_of(replace(step, anywhere=False)) != key
    (tmp_path / "a" / "picture.png").write_bytes(b"2")
    assert key_of(step) != key


def test_a_folder_for_another_device_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, "cpu")
    notes = read_notes(asked)
    assert notes["for"] == "this CPU" and notes["steps"] == {}
    asked.output.mkdir()
    other = read_notes(request(tmp_path, "RTX 4090"))
    (asked.output / "quantize.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"made for RTX 4090 .*; expected another folder for this CPU"):
        read_notes(asked)
    assert read_notes(request(tmp_path, "8.9"))["steps"] == {}, "the same by another name"


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, "cpu")
    asked.output.mkdir()
    (asked.output / "quantize.json").write_text(json.dumps(read_notes(asked)))
    assert read_notes(asked)["steps"] == {}
    with pytest.raises(UserError, match=r"made of .*my model; expected another folder for .*other; where it is"):
        read_notes(replace(asked, model=tmp_path / "other"))


def test_what_quantize_made_says_where_its_engines_are(tmp_path: Path) -> None:
    """`infer --engines OUT`, where OUT/engines is meant."""
    (tmp_path / "quantize.json").write_text("{}")
    for name, kind in (("onnx/float", "onnx-bundle"), ("onnx/int8", "onnx-bundle")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps({"kind": kind}))
    with pytest.raises(
        UserError, match=r"holds what `quantize` made; .*none is built yet: `.* build-engines .*int8 "
    ):
        EngineBundle.load(tmp_path)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "manifest.json").write_text(json.dumps({"kind": "engine-bundle"}))
    with pytest.raises(UserError, match=r"expected an engine bundle; engines: .*/engines$"):
        EngineBundle.load(tmp_path)
    with pytest.raises(UserError, match=r"expected an ONNX bundle; an ONNX bundle: .*/onnx/int8$"):
        OnnxBundle.load(tmp_path)


def as_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """What a step runs in place of Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


def test_a_step_s_status_passes_through_and_a_killed_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_python(tmp_path, monkeypatch, "exit 2")
    assert run(Step(("export",))) == 2
    as_python(tmp_path, monkeypatch, "kill -9 $$")
    with pytest.raises(UserError, match="export: killed by signal 9"):
        run(Step(("export",)))


# what runs a step, in a process of its own: a signal that is handled wrongly must not end the one of the tests
RUNNER = """
import os, signal, subprocess, sys, time
from passionsr_trt.engines.common.signals import ended_by_signal
from passionsr_trt.export.quantize_plan import Step
from passionsr_trt.export.quantize_run import run

start = subprocess.Popen

def started(*words, **options):
    process = start(*words, **options)
    while {early} and process.poll() is None:
        if os.path.exists({begun!r}):
            os.kill(os.getpid(), signal.SIGTERM)
            break
        time.sleep(0.01)
    return process

subprocess.Popen = started
sys.executable = {program!r}
with ended_by_signal():
    sys.exit(run(Step(("calibrate",))))
"""


@pytest.mark.parametrize("early", [False, True], ids=["at-work", "while-it-is-started"])
def test_sigterm_ends_the_step_and_waits_for_it(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, tidied = tmp_path / "begun", tmp_path / "tidied"
    as_python(tmp_path, monkeypatch, f"trap 'echo > {tidied}; exit 130' TERM\necho > {begun}\nsleep 60 & wait")
    script = RUNNER.format(early=early, begun=str(begun), program=sys.executable)
    monkeypatch.undo()
    with subprocess.Popen([sys.executable, "-c", script]) as runner:
        while not early and not begun.exists() and runner.poll() is None:
            time.sleep(0.01)
        if not early:
            runner.terminate()
        assert runner.wait(60) == 130
    assert tidied.exists()


def test_the_summary_says_what_runs_in_float_and_engines_all_in_float_fail(small: Built) -> None:
    engines = EngineBundle.load(small.engines_int8)
    (first, figures), *_others = engines.coverage.items()
    sites = sum(part.sites_quantized for part in engines.coverage.values())
    assert re.fullmatch(rf"INT8 at {sites} of {sites} sites \(\d\d\.\d% of MACs\)", coverage_of(engines))

    def fallen(count: int, names: list[str]) -> EngineBundle:
        figures_of_first = replace(figures, sites_int8=figures.sites_int8 - count, float_sites=names)
        return replace(engines, coverage={**engines.coverage, first: figures_of_first})

    said = coverage_of(fallen(4, ["a", "b", "c", "d"]))
    assert said.startswith(f"INT8 at {sites - 4} of {sites} sites") and said.endswith(
        ", in float: a, b, c and 1 more"
    )
    none = {name: replace(part, sites_int8=0) for name, part in engines.coverage.items()}
    with pytest.raises(UserError, match=f"no site runs INT8, of {sites} that the calibration quantizes; expected"):
        coverage_of(replace(engines, coverage=none))


def test_a_step_that_fails_ends_it_with_its_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"not finished \(status 1\)"):
        quantize_model(tmp_path / "none", TINY, tmp_path / "out")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and "no such folder or file" in line
    assert not list((tmp_path / "out").glob("**/*"))


@pytest.mark.slow
def test_the_page_s_lines_run_and_a_second_run_does_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_small("Compact", tmp_path / "network.pth")
    shutil.copytree(TINY, "low_res_photos")
    Image.open(DEMO / "photos" / "lr" / "chelsea.png").convert("RGB").crop((0, 0, 40, 32)).save("photo.jpg")
    lines = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert lines is not None and len(lines[1].strip().splitlines()) <= 11
    names: dict[str, object] = {}
    exec(lines[1], names)
    for path in asdict(names["made"]).values():  # type: ignore[call-overload]
        assert path is None or path.exists(), path
    assert Image.open("large.png").size == (120, 96) and Image.open("frame3.png").size == (96, 96)
    printed = capfd.readouterr().out
    assert printed.count("\n$ passionsr-trt ") == 7
    assert [line for line in printed.splitlines() if line.startswith("next: ")] == [
        "next: passionsr-trt infer LOW_RES_PHOTOS -o out/pictures --engines out/engines"
    ]

    ran: list[str] = []
    comparison = Path("out/compare/comparison.json")
    figures = comparison.read_text()

    def again(step: Step) -> int:
        ran.append(step.words[0])
        if step.words[0] == "compare":
            comparison.write_text(figures)
        return 0

    monkeypatch.setattr(quantize_run, "run", again)
    words = ["network.pth", "--images", "low_res_photos", "--method", "search", "-o", "out"]
    for missing, made in ((False, []), (True, ["compare"])):
        ran.clear()
        if missing:
            comparison.unlink()
        assert main(["quantize", *words]) == 0
        assert ran == ["calibrate", "export", "export", "build-engines", "build-engines", *made]
    assert capfd.readouterr().out.count("; kept\n") == 2 + 1


@needs_rtx
@pytest.mark.accept
def test_a_gpu_that_is_elsewhere_gets_engines_and_a_prediction(tmp_path: Path) -> None:
    network = write_small("Compact", tmp_path / "network.pth")
    made = quantize_model(network, TINY, tmp_path / "out", target="RTX 4090", method="range", limit=2)
    assert made.engines is not None and made.predicted is not None and made.speed is None
    assert EngineBundle.load(made.engines).label == OnnxBundle.load(made.onnx).label == "FP8"
    assert '"RTX 4090"' in made.predicted.read_text() and made.report.is_file()
