"""infer, from files to files."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo, TensorInfo
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.runtime.apps import infer as module
from passionsr_trt.runtime.apps.batch.ledger import OWN
from passionsr_trt.runtime.backends.host import HostExecutor
from passionsr_trt.runtime.core import upscaler
from passionsr_trt.runtime.core.chain import Chain, rescaled
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import Built, needs_torch
from tests.runtime.test_images import write_bad


def infer(engines: Path, output: Path, *images: Path, options: tuple[str, ...] = ()) -> int:
    return main(["infer", *map(str, images), "-o", str(output), "--engines", str(engines), *options])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_an_odd_size_is_enlarged_exactly(demo: Built, photo: Path, tmp_path: Path) -> None:
    assert infer(demo.engines_int8, tmp_path / "out.png", photo) == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (112 * 4, 75 * 4)


def test_without_an_output_each_lies_beside_its_picture_and_is_enlarged_once(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    with Image.open(photo) as image:
        image.convert("RGB").save(folder / "a.jpg", quality=50)
    shutil.copy(photo, folder / "sub" / "b.png")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    words = ["infer", "--engines", str(small.engines_int8)]
    assert main([*words, str(folder / "a.jpg")]) == 0
    assert capsys.readouterr().out == f"1 of 1 images written to {folder / 'a_x2.jpg'}\n"
    assert not (folder / OWN).exists(), "one picture's folder is not ours to keep notes in"
    assert main([*words, str(folder)]) == 1, "without a note it may be the user's own"
    assert "a_x2.jpg is there, and no note says that it was made" in capsys.readouterr().err
    (folder / "a_x2.jpg").unlink()
    for options in ((), ("--suffix=-big",), ("--suffix=-large",), ("--resume",)):  # none takes another's outputs
        assert main([*words, str(folder), *options]) == 0
        assert "2 of 2" in capsys.readouterr().out
    made = {"a_x2.jpg", "a-big.jpg", "a-large.jpg", "sub/b_x2.png", "sub/b-big.png", "sub/b-large.png"}
    found = {path for path in folder.rglob("*.*") if path.is_file() and OWN not in path.parts}
    assert found - set(before) == {folder / name for name in made}
    assert all(path.read_bytes() == content for path, content in before.items())
    with Image.open(folder / "a_x2.jpg") as image:
        assert image.format == "JPEG" and image.size == (224, 150)
    assert main([*words, str(folder), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "2 of 2" in printed.out and "6 files left out: 6 that earlier runs made" in printed.err
    assert main([*words, str(folder / "a_x2.jpg")]) == 0 and (folder / "a_x2_x2.jpg").exists(), (
        "who names it means it"
    )


def test_a_user_s_own_picture_of_an_output_s_name_is_left_as_it_is(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(photo, folder / name)
    Image.new("RGB", (224, 150), "red").save(folder / "a_x2.png")
    mine = (folder / "a_x2.png").read_bytes()
    words = ["infer", "--engines", str(small.engines_int8), str(folder)]
    for options in ((), ("--resume",)):
        assert main([*words, *options]) == 1
        assert "a.png: " in (printed := capsys.readouterr().err) and "no note says that it was made" in printed
        assert (folder / "a_x2.png").read_bytes() == mine
        assert (folder / "b_x2.png").exists()
    assert main([*words, "--suffix=-big"]) == 0


def test_a_folder_that_takes_no_file_costs_no_other(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere: the refusal is the file system's in name only."""
    for name in ("card", "disk"):
        (tmp_path / name).mkdir()
        shutil.copy(photo, tmp_path / name / "a.png")

    def checked(folder: Path) -> None:
        if folder.name == "card":
            raise UserError(f"{folder}: cannot be written (Read-only file system)", "expected a writable folder")

    monkeypatch.setattr(module, "check_writable", checked)
    words = ["infer", "--engines", str(small.engines_int8), str(tmp_path / "card"), str(tmp_path / "disk")]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "card: cannot be written" in printed.err and "-o FOLDER writes elsewhere" in printed.err
    assert "1 of 2 images written" in printed.out
    assert (tmp_path / "disk" / "a_x2.png").exists()
    assert [path.name for path in (tmp_path / "card").iterdir()] == ["a.png"]


def test_a_picture_is_noted_as_soon_as_it_is_written(
    small: Built, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that ends while a large picture is made has noted the small one before it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    Image.open(photo).resize((400, 300)).save(folder / "b.png")
    whole = upscaler.finish

    def stopped(chain: Chain, prepared: upscaler.Prepared, *more: Any) -> upscaler.SRResult:
        if prepared.plan.given == (300, 400):
            while not (out / "a.png").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return whole(chain, prepared, *more)

    monkeypatch.setattr(upscaler, "finish", stopped)
    words = ["infer", "--engines", str(small.engines_int8), str(folder), "-o", str(out)]
    assert main(words) == 130
    assert "--resume makes what is missing" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*words, "--resume"]) == 0
    assert "1 of 2 are there already; skipped" in capsys.readouterr().out


def test_what_does_not_go_together_is_wrong_usage(small: Built, photo: Path, tmp_path: Path) -> None:
    assert infer(small.engines_int8, tmp_path / "out", photo, options=("--suffix", "_big")) == 2
    with pytest.raises(SystemExit) as stop:
        main(["infer", str(photo), "--suffix", "../up"])
    assert stop.value.code == 2


@pytest.mark.parametrize(("name", "what"), [("missing.png", "image"), ("missing.mkv", "clip")])
def test_where_nothing_was_written_no_place_is_named(
    name: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "clip":
        pytest.importorskip("av", reason="needs PyAV (extra [video])")
    assert main(["infer", str(tmp_path / name), "--provider", "cpu"]) == 1
    assert capsys.readouterr().out == f"no {what} written\n" and not list(tmp_path.iterdir())


def test_the_packaged_engines_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("realesr-general-x4", "4 times", "1.4 MB", "BSD-3-Clause"))


def test_another_scale_where_the_model_takes_the_enlarged_picture(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(small.engines_int8, tmp_path / "out.png", photo, options=("--scale", "3")) == 0
    assert pixels(tmp_path / "out.png").shape == (75 * 3, 112 * 3, 3)
    model, picture = ModelInfo("", "none", 4, "none"), TensorInfo("image", 3, 1)
    for source, free in ((picture, True), (TensorInfo("lr", 3, 4), False)):
        part = PartInfo("net", "net", (source,), TensorInfo("out", 3, 1), 4)
        chain = Chain(model, (part,), HostExecutor({}), "none")
        assert rescaled(chain, 4) is chain and rescaled(chain, None) is chain
        if free:
            assert rescaled(chain, 3).model.upscale == 3
        else:
            with pytest.raises(
                UsageError,
                match="--scale 3: this model enlarges by itself, 4 times; expected 4; --outscale 3 resizes",
            ):
                rescaled(chain, 3)


def test_int8_is_close_to_float_and_not_equal(demo: Built, photo: Path, tmp_path: Path) -> None:
    for name, engines in (("fp32", demo.engines_fp32), ("int8", demo.engines_int8)):
        assert infer(engines, tmp_path / f"{name}.png", photo, options=("--align", "none")) == 0
    error = pixels(tmp_path / "fp32.png").astype(float) - pixels(tmp_path / "int8.png")
    assert 0 < np.mean(error**2) < 255**2 / 10**3.5  # PSNR > 35 dB


def test_one_bad_image_never_loses_the_others(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for kind in ("text", "empty", "pixel", "truncated", "bomb"):
        write_bad(folder / f"{kind}.png", kind)
    shutil.copy(photo, folder / "good.png")
    assert infer(small.engines_int8, tmp_path / "out", folder, tmp_path / "missing.png") == 1
    captured = capsys.readouterr()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.png", OWN}
    assert captured.err.count("error: ") == 6 and "1 of 7 images written" in captured.out


def test_colour_fix_formats_and_tiles_work_together(small: Built, photo: Path, tmp_path: Path) -> None:
    for index, (align, kind) in enumerate((("adain", "jpg"), ("wavelet", "webp"), ("none", "png"))):
        out = tmp_path / str(index)
        options = ("--align", align, "--format", kind, "--tile", "128", "--overlap", "32", "--batch", "2")
        assert infer(small.engines_int8, out, photo, options=options) == 0
        assert pixels(out / f"chelsea.{kind}").shape == (150, 224, 3)


def test_a_graph_of_one_size_tiles_what_is_larger_and_takes_one_at_a_time(
    small_model: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx, engines = tmp_path / "onnx", tmp_path / "engines"
    assert main(["export", str(small_model), "--float", "--size", "128x128", "-o", str(onnx)]) == 0
    assert main(["build-engines", str(onnx), "-o", str(engines)]) == 0
    assert infer(engines, tmp_path / "out", photo) == 0
    assert pixels(tmp_path / "out" / "chelsea.png").shape == (150, 224, 3)
    assert "tiles of 128×128 pixels" in capsys.readouterr().err
    assert infer(engines, tmp_path / "out", photo, options=("--batch", "2")) == 2
    assert "--batch 2: the engines take 1 at once" in capsys.readouterr().err
    words = ["build-engines", str(onnx), "-o", str(tmp_path / "rtx"), "--backend", "tensorrt-rtx"]
    words += ["--compute-capability", "8.9", "--dry-run"]
    for asked in (["--batch", "2"], ["--size", "256x256"], ["--max-size", "256x256"]):
        assert main([*words, *asked]) == 1
        assert "export again without --size" in capsys.readouterr().err
    assert main(words) == 0
    assert "size: [128, 128]" in capsys.readouterr().out
    assert infer(engines, tmp_path / "out", photo, options=("--tile", "192")) == 1
    assert "--tile 192: the engines take 128×128 to 128×128 pixels" in capsys.readouterr().err


def test_a_damaged_engine_is_refused(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = tmp_path / "engines"
    shutil.copytree(small.engines_int8, engines)
    path = engines / "unet.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert infer(engines, tmp_path / "out.png", photo) == 1
    assert "truncated" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["engines"]


def test_output_that_cannot_be_written_fails_before_the_work(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert infer(small.engines_int8, tmp_path / "file" / "out", photo) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_impossible_outputs_are_usage_errors(small: Built, photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "chelsea.jpg"
    with Image.open(photo) as image:
        image.convert("RGB").save(twin)
    assert infer(small.engines_int8, tmp_path / "out.png", photo, twin) == 2
    assert infer(small.engines_int8, tmp_path / "out.bmp", photo) == 2
    assert infer(small.engines_int8, tmp_path, twin, options=("--format", "jpg")) == 2


def test_a_folder_of_folders_and_of_twins_into_itself(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    before = photo.read_bytes()
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).write_bytes(before)
    with Image.open(photo) as image:
        image.convert("RGB").save(tmp_path / "a.jpg")
    (tmp_path / "gone.png").symlink_to("nowhere")
    for _ in range(2):  # what the first made is no picture for the second
        assert infer(small.engines_int8, tmp_path, tmp_path, options=("--format", "png")) == 1
        captured = capsys.readouterr()
        assert captured.err.count("error: ") == 3 and "another --format" in captured.err
        assert "1 of 4 images written" in captured.out and "1 broken link" in captured.err
        assert pixels(tmp_path / "a.jpg.png").shape == (150, 224, 3)
        assert all((tmp_path / name).read_bytes() == before for name in ("a.png", "b.png", "sub/c.png"))
    assert "2 files left out: 1 broken link, 1 that an earlier run made" in captured.err
    (tmp_path / "a.jpg.png").unlink()
    assert infer(small.engines_int8, tmp_path / "out", tmp_path) == 0
    assert pixels(tmp_path / "out" / "sub" / "c.png").shape == (150, 224, 3)


def test_equal_seeds_give_equal_pictures_where_the_posterior_is_sampled(tmp_path: Path, photo: Path) -> None:
    needs_torch()
    from tests.helpers import write_model

    shallow = {  # nothing random is in the UNet
        "block_out_channels": [32],
        "attention_head_dim": 2,
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
    }
    model = write_model(tmp_path / "model", one_step={"posterior": "sample"}, unet=shallow)
    onnx, engines = tmp_path / "onnx", tmp_path / "engines"
    assert main(["export", str(model), "--float", "-o", str(onnx)]) == 0
    assert main(["build-engines", str(onnx), "-o", str(engines)]) == 0
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ("--seed", seed, "--align", "none")
        assert infer(engines, tmp_path / f"{name}.png", photo, options=options) == 0
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
