"""Bundles of several formats: each part takes the fastest; what does not go together is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.backends import TENSORRT, TargetOptions
from passionsr_trt.engines.bundle.bundles import Choice, EngineBundle, OnnxBundle
from passionsr_trt.engines.cli import BuildRequest, rating
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.mixed_format import check_together, fastest
from passionsr_trt.engines.tensorrt.gpu import InstalledGPU
from passionsr_trt.engines.tensorrt.roofline import gpu_for, known_gpus, predict, rate
from passionsr_trt.runtime.apps.benchmark import seconds_by_part
from passionsr_trt.runtime.main import main

from tests.conftest import Built, needs_rtx

RTX = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--size", "64x64"]
PARTS = ("vae_encoder", "unet", "vae_decoder")


@pytest.fixture(scope="module")
def chained(small: Built, small_fp8: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8, FP8 and float, chained for an RTX 4070 that is not here."""
    folder = tmp_path_factory.mktemp("chained") / "engines"
    bundles = [str(path) for path in (small.onnx_int8, small_fp8, small.onnx_fp32)]
    assert main(["build-engines", *bundles, "-o", str(folder), *RTX]) == 0
    return folder


@needs_rtx
def test_every_part_is_the_one_that_is_predicted_to_be_fastest(chained: Path) -> None:
    bundle = EngineBundle.load(chained)
    assert bundle.choice is not None and (bundle.choice.by, bundle.choice.gpu) == ("predicted", "RTX 4070")
    again = rate([bundle], gpu_for(["8.9"], None)).seconds
    for part in bundle.parts:
        seconds = bundle.choice.seconds[part.name]
        assert set(seconds) == {"INT8", "FP8", "FP32"}
        assert part.format.upper() == min(seconds, key=lambda label: seconds[label])
        assert again[part.name][bundle.label] == pytest.approx(min(seconds.values())), "its own kernels are there"
        quantized = bundle.coverage[part.name].sites_quantized
        assert (quantized > 0) == (part.format in ("int8", "fp8"))
    formats = {part.format for part in bundle.parts}
    assert (bundle.spec is None) == (formats == {"fp32"})


@needs_rtx
def test_nothing_of_the_others_is_left(chained: Path) -> None:
    names = {f"{part}.{kind}" for part in PARTS for kind in ("engine", "log", "layers.json")}
    assert {path.name for path in chained.iterdir()} == {*names, "manifest.json"}
    assert not [path for path in chained.parent.iterdir() if path != chained]
    manifest = json.loads((chained / "manifest.json").read_text())
    assert all(part["format"] for part in manifest["parts"])


@needs_rtx
def test_the_same_bundles_are_reused_and_another_choice_is_not(
    small: Built, small_fp8: Path, chained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = [str(path) for path in (small.onnx_int8, small_fp8, small.onnx_fp32)]
    words = ["build-engines", *bundles, "-o", str(chained), *RTX]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "reused" in printed and "predicted on RTX 4070, ms: INT8 " in printed
    assert main([*words, "--gpu", "RTX 4090", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "chosen for was RTX 4070, predicted, now RTX 4090, predicted" in printed and "FP8 sites" in printed
    fewer = ["build-engines", *bundles[:2], "-o", str(chained), *RTX, "--dry-run"]
    assert main(fewer) == 0
    assert "the ONNX bundle changed" in capsys.readouterr().out


def test_the_fastest_is_taken_and_of_equals_the_first(small: Built) -> None:
    int8, fp32 = (EngineBundle.load(folder) for folder in (small.engines_int8, small.engines_fp32))
    seconds = {
        "vae_encoder": {"INT8": 2.0, "FP32": 1.0},
        "unet": {"INT8": 1.0, "FP32": 2.0},
        "vae_decoder": {"INT8": 1.0, "FP32": 1.0},
    }
    chosen = fastest(seconds, [int8, fp32])
    assert [chosen[part].label for part in PARTS] == ["FP32", "INT8", "INT8"]


def test_engines_that_run_here_are_measured_part_by_part(small: Built) -> None:
    """As they would be on a card: by the runtime, in turn."""
    built = [EngineBundle.load(folder) for folder in (small.engines_int8, small.engines_fp32)]
    seconds = seconds_by_part(built, size=(64, 64), rounds=2)
    assert set(seconds) == set(PARTS)
    for times in seconds.values():
        assert set(times) == {"INT8", "FP32"} and all(0 < took < 60 for took in times.values())


def test_a_card_at_hand_is_measured_and_a_named_one_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"unet": {"INT8": 2.0, "FP8": 1.0}}
    monkeypatch.setattr(
        "passionsr_trt.engines.tensorrt.gpu.gpus", lambda: [InstalledGPU("RTX 4090", "8.9", 24564, "1")]
    )
    bundles = (Path("int8"), Path("fp8"))
    request = BuildRequest(bundles, Path("out"), TENSORRT, TargetOptions(), lambda _built: seconds)
    rated, place = rating(request)
    assert rated is not None and rated([]) == Choice("measured", "RTX 4090", seconds) and place == "RTX 4090"
    _rated, place = rating(replace(request, gpu="Thor T5000"))
    assert place == "Thor T5000, predicted"
    assert rating(replace(request, bundles=bundles[:1])) == (None, "")


def test_the_command_line_refuses_two_models(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(small.onnx_fp32, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["model"]["digest"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    words = ["build-engines", str(small.onnx_int8), str(other), "-o", str(tmp_path / "e"), *RTX]
    assert main(words) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "made from model 000000000000; expected" in lines[0]
    assert not (tmp_path / "e").exists()


def test_two_models_are_not_chained(small: Built) -> None:
    bundle, other = OnnxBundle.load(small.onnx_int8), OnnxBundle.load(small.onnx_fp32)
    check_together([bundle, other])
    with pytest.raises(UserError, match="made from model"):
        check_together([bundle, replace(other, model=replace(other.model, digest="0" * 64))])


def test_what_was_made_otherwise_is_not_chained(small: Built) -> None:
    bundle, other = OnnxBundle.load(small.onnx_int8), OnnxBundle.load(small.onnx_fp32)
    with pytest.raises(UserError, match="another size than"):
        check_together([bundle, replace(other, model=replace(other.model, size=(512, 512)))])
    with pytest.raises(UserError, match="another precision"):
        check_together([bundle, replace(other, precision="fp16")])
    with pytest.raises(UserError, match="another wiring"):
        check_together([bundle, replace(other, parts=other.parts[:2])])
    with pytest.raises(UserError, match="bundles of INT8, INT8; expected one of each format"):
        check_together([bundle, bundle])
    fp8 = replace(bundle, parts=tuple(replace(part, format="fp8") for part in bundle.parts))
    check_together([bundle, fp8])
    assert fp8.spec is not None
    with pytest.raises(UserError, match="another spec"):
        check_together([bundle, replace(fp8, spec=replace(fp8.spec, seed=1))])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["$INT8", "$FP32"], "several bundles with --backend openvino; expected one"),
        (["$INT8", "$FP32", *RTX, "--expect-digest", "0"], "--expect-digest with several bundles"),
        (["$INT8", *RTX, "--gpu", "RTX 4090"], "--gpu RTX 4090; expected several bundles"),
        (["$INT8", "$FP32", *RTX, "--gpu", "Voodoo 2"], "--gpu 'Voodoo 2': not known"),
        (
            ["$INT8", "$FP32", "--backend", "tensorrt-rtx", "--compute-capability", "12.1"],
            "no known GPU of compute capability 12.1; expected --gpu",
        ),
    ],
)
def test_what_several_bundles_do_not_go_with_is_wrong_usage(
    words: list[str], message: str, small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"$INT8": str(small.onnx_int8), "$FP32": str(small.onnx_fp32)}
    filled = [known.get(word, word) for word in words]
    assert main(["build-engines", *filled, "-o", str(tmp_path / "e")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@needs_rtx
def test_gpus_without_fp8_have_no_prediction_of_it(
    small_fp8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "fp8")
    assert main(["build-engines", str(small_fp8), "-o", folder, *RTX]) == 0
    table = predict([EngineBundle.load(Path(folder))], known_gpus())
    assert {gpu for gpu, rows in table.items() if not rows} == {"A100 40GB", "Orin NX 16GB", "AGX Orin 64GB"}
    capsys.readouterr()
    assert main(["predict", folder, "--gpu", "A100 40GB", "--gpu", "H200"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "FP8" in line]
    assert rows[0] == ["A100", "40GB", "FP8", "-", "-", "-", "-"] and float(rows[1][-1]) > 0
    assert main(["predict", folder, "--gpu", "A100 40GB"]) == 1
    assert "none of these GPUs" in capsys.readouterr().err
