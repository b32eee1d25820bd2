"""The console command: help, exit codes, one-line errors."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from passionsr_trt.engines.common.extras import install_hint
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU
from passionsr_trt.runtime.apps import doctor
from passionsr_trt.runtime.main import COMMANDS, main

from tests.conftest import Built, needs_torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["infer", "--help"])
    text = capsys.readouterr().out
    assert "default: white" in text and "64 for most" in text


def test_formats_are_named_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (
        (
            "export",
            [
                "--format {int8,fp8,w8,w8-fp8}",
                "--precision {fp32,fp16,bf16}",
                "default: int8",
                "compute capability 8.9",
            ],
        ),
        ("build-engines", ["bundle [bundle ...]", "--gpu NAME", "INT8 (or FP8, or"]),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words), text


def test_usage_errors_exit_with_2(small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer"]) == 2
    assert "no images; expected images or folders of them" in capsys.readouterr().err
    image = str(ROOT / "demo" / "photos" / "lr" / "chelsea.png")
    assert main(["infer", image, "-o", str(tmp_path), "--engines", str(small.engines_fp32), "--tile", "100"]) == 2
    assert "--tile 100; expected a multiple of 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("infr", "did you mean infer?"),
        ("build-engine", "did you mean build-engines?"),
        ("upscale-it", "expected one of import-model, "),
        ("a\nb", "a\\nb: no such command"),
        ("photo.jpg", "did you mean `passionsr-trt infer photo.jpg x`?"),
        ("clip of us.MKV", "did you mean `passionsr-trt infer 'clip of us.MKV' x`?"),
        (str(ROOT / "LICENSE"), f"did you mean `passionsr-trt infer {ROOT / 'LICENSE'} x`?"),
        ("--engines", "--engines: no option of passionsr-trt itself; expected a command before it"),
    ],
)
def test_an_unknown_command_names_the_nearest(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("error: ") and hint in line and line.endswith("`passionsr-trt --help` shows the commands")
    )


def test_without_a_command_all_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--traceback"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and first.startswith("error: no command; expected one of import-model, ")


WRONG = {
    "infer a --tiel 5": "--tiel: no such option; did you mean --tile?",
    "infer a --frobnicate=5": "--frobnicate: no such option",
    "infer a -x": "-x: no such option",
    "predict a --gpus b": "--gpus: no such option; did you mean --gpu?",
    "infer a --tile x": "argument --tile: 'x' is not a whole number",
    "infer a --tile": "argument --tile: expected a value after it",
    "infer a --t 5": "--t: expected one of --tile, --threads",
    "infer a --format tiff": "argument --format: 'tiff': expected one of png, jpg, webp",
    "build-engines a -o b --optimization-level x": "argument --optimization-level: 'x': expected a whole number",
    "serve --engines": "argument --engines: expected one value or more after it",
    "infer a -o out b": "b: one word too many; expected all images side by side",
    "infer a --quality 90": (
        "argument --quality: '90': expected a clip's CRF, a whole number from 0 to 63; photos are written with "
        "JPEG's and WebP's 95"
    ),
    "doctor now": "now: one word too many; expected options alone",
    "benchmark --engines a -o b": "missing: --baseline",
    "benchmark --engins a": "--engins: no such option; did you mean --engines?",
    "infer a\tb --a\nb": "--a\\nb: no such option",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_option_is_one_line_with_the_way_out(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split(" "))
    said = capsys.readouterr()
    command = words.split(" ")[0]
    assert said.err == f"error: {WRONG[words]}; `passionsr-trt {command} --help` shows the options\n"
    assert (stop.value.code, said.out) == (2, "")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_each_default_once_and_as_it_is_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in re.split(r" (?=--\w)", text):
        assert option.count("(default: ") <= 1, option
    assert not re.search(r"default: (True|False|None|\[|\(|\w+\()", text)


REQUESTS = {  # command line → the app that it asks, and some of what it asks for
    "infer a.png b -o out --engines e --tile 128 --scale 3 --no-cache --streams 2 --format jpg": (
        "infer.infer",
        {"images": [Path("a.png"), Path("b")], "streams": 2, "recipe.options.tile": 128, "recipe.scale": 3}
        | {"recipe.cache": 0, "recipe.form": "jpg", "recipe.cuda_graph": True, "resume": False},
    ),
    "infer a.png --suffix=-big": (
        "infer.infer",
        {"output": None, "suffix": "-big", "recipe.engines": Path("realesr-general-x4"), "recipe.form": None},
    ),
    "batch a s3://b out --list l --gpus 0.5 --seed 7 --no-cuda-graph": (
        "batch.job.batch",
        {"inputs": ["a", "s3://b"], "output": "out", "lists": [Path("l")], "gpus": 0.5, "workers": None}
        | {"recipe.options.seed": 7, "recipe.form": None, "recipe.cuda_graph": False, "recipe.cache": 5 * 2**30},
    ),
    "compare a --reference r --engines e -o out --min-psnr 30": (
        "compare.compare",
        {"min_psnr": 30.0, "align": "none"}
        | {"command": "passionsr-trt compare a --reference r --engines e -o out --min-psnr 30"},
    ),
    "benchmark --engines e --baseline b -o out --size 64x128": (
        "benchmark.benchmark",
        {"size": (64, 128), "onnx": None, "runs": 5},
    ),
    "serve --engines e f --cache-size 1 --background black": (
        "serving.app.serve",
        {"engines": [Path("e"), Path("f")], "cache": 2**30, "background": (0, 0, 0), "share": False}
        | {"browser": True},
    ),
    "serve --engines e --no-browser": ("serving.app.serve", {"browser": False}),
    "repository e -o out --overlap 32 --parts openvino": (
        "repository.command.repository",
        {"options.overlap": 32, "parts": "openvino", "name": "upscaler", "size": None},
    ),
    "doctor --gpu-report file --engines e": (
        "gpu_report.gpu_report",
        {"gpu_report": Path("file"), "engines": Path("e"), "baseline": None},
    ),
}


@pytest.mark.parametrize("words", REQUESTS)
def test_apps_are_asked_for_what_was_typed(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app, expected = REQUESTS[words]
    asked: list[Any] = []
    monkeypatch.setattr(f"passionsr_trt.runtime.apps.{app}", lambda request: asked.append(request) or 7)
    assert main(words.split()) == 7
    assert {name: attrgetter(name)(asked[0]) for name in expected} == expected


def test_a_command_names_the_next_one_which_can_be_typed(
    small: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["build-engines", str(small.onnx_int8), "-o", str(small.engines_int8)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    program, *words = shlex.split(line.removeprefix("next: "))
    monkeypatch.setattr(
        "passionsr_trt.runtime.apps.infer.infer", lambda request: int(request.recipe.engines.is_dir())
    )
    assert program == "passionsr-trt" and main(words) == 1, "infer, with the engines that were built"


def test_infer_runs_as_a_script() -> None:
    command = [sys.executable, str(ROOT / "runtime" / "infer.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0 and "--align" in done.stdout


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("passionsr_trt.export")]:
        monkeypatch.delitem(sys.modules, name)
    model = str(ROOT / "demo" / "model")
    assert main(["export", model, "--float", "-o", "unused"]) == 1
    assert f"torch is not installed; {install_hint('export')}\n" in capsys.readouterr().err


def test_batch_without_ray_ends_before_anything_is_listed_or_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path / "cache"))
    assert main(["batch", str(ROOT / "demo" / "photos" / "lr"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: ray is not installed; {install_hint('batch')}\n")
    assert not list(tmp_path.iterdir())


def one_line_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; its one line of error."""
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_a_spec_with_an_unknown_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_torch()
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"bits_wieghts": 8}))
    images = str(ROOT / "demo" / "calib" / "lr")
    arguments = ["calibrate", str(ROOT / "demo" / "model"), "--images", images, "--spec", str(spec)]
    assert "unknown key 'bits_wieghts'" in one_line_error(arguments, capsys)


def test_folders_of_the_wrong_kind_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(ROOT / "demo" / "model")
    line = one_line_error(["build-engines", model, "-o", str(tmp_path / "out")], capsys)
    assert f"{model}: holds a model folder; expected an ONNX bundle; `passionsr-trt calibrate {model}" in line
    line = one_line_error(["build-engines", str(tmp_path), "-o", str(tmp_path / "out")], capsys)
    assert "no manifest.json" in line and "passionsr-trt export" in line
    assert not (tmp_path / "out").exists()


def test_doctor_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "CPU INT8" in printed and "openvino       build: yes  run: yes" in printed


def test_doctor_reads_gpus_and_jetsons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = InstalledGPU("NVIDIA GeForce RTX 4090", "8.9", 24564, "570.86.10")
    monkeypatch.setattr(doctor, "gpus", lambda: [gpu])
    monkeypatch.setattr(doctor, "jetson_model", lambda: "NVIDIA Jetson AGX Orin")
    monkeypatch.setattr(doctor, "installed", lambda module: module not in ("tensorrt", "pycuda", "cuda.bindings"))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "RTX 4090, SM 8.9, 24564 MiB" in printed and "Jetson    NVIDIA Jetson AGX Orin" in printed
    (line,) = [line for line in printed.splitlines() if "to add everything" in line]
    assert line == f"to add everything that is missing, {install_hint('cuda')}", (
        "a Jetson has TensorRT from JetPack, never from pip"
    )
