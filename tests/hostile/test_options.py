"""Options of every subcommand that are out of range, of another type, missing, doubled; --resume over ruins."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.hostile.bench import difference, pattern
from tests.hostile.trial import Trial

NUMBERS = (
    "-1", "-64", "0", "1", "2147483648", "9223372036854775808", "9" * 400, "1e400", "nan", "-nan", "inf", "-inf",
    "",
    " ", "x", "1.5", "1_0", "٣", "0x10", "+1", "1e3", "\t", "null", "100", "-0",
)  # fmt: skip
INFER = ("--tile", "--overlap", "--batch", "--seed", "--threads", "--memory", "--cache-size")
CHOICES = {"--align": "adain", "--format": "png", "--provider": "cpu", "--background": "white"}
WRONG_CHOICES = ("", "ADAIN", "tiff", "exe", "../x", "\n")


VALUES = [(option, value) for option in INFER for value in NUMBERS] + [
    (option, value) for option in CHOICES for value in WRONG_CHOICES
]


@pytest.mark.parametrize(("option", "value"), VALUES, ids=[f"{option} {value[:24]!r}" for option, value in VALUES])
def test_where_an_option_is_taken_the_picture_is_what_it_is_without(trial: Trial, option: str, value: str) -> None:
    outcome = trial.infer(trial.bench.good, option, value, seconds=30)
    if outcome.status == 0:
        found = trial.folder / "out" / "good.png"
        assert found.is_file()
        if option not in ("--tile", "--overlap", "--align", "--provider"):
            assert not difference(found, trial.bench.result)


# the beginning of lines, and their ends; $…: the bench's own; no line is right
LINES = {
    "": (
        "", "upscale", "infer", "build-engines", "predict", "compare", "benchmark", "doctor now",
        "doctor --gpu-report", "predict nowhere nowhere", "predict $FP32 $INT8", "predict $FP32 --gpu none",
        "batch $GOOD - --engines $INT8", "batch $GOOD out --engines $INT8 --engines $INT8",
        "infer $GOOD -o - --engines $INT8",
    ),
    "infer $GOOD -o out": (
        "", "--engines $INT8 --sharpen 3", "--engines=", "--engines nowhere", "--engines $GOOD",
        "--engines /dev/null", "--engines $ONNX", "--engines $INT8 --provider cpu",
        "--engines $ONNX --provider cuda", "--engines $ONNX --provider tensorrt",
        "--engines $FP32 --engines $INT8", "--output out --engines $INT8", "--engines $ONNX/unet.onnx",
        "--engines $INT8/manifest.json", "--engines $ONNX/unet.onnx --provider cpu",
    ),
    "build-engines": (
        "nowhere -o out", "$GOOD -o out", "$INT8 -o out", "$ONNX -o - --dry-run", "$ONNX -o out -o out --dry-run",
        "$ONNX -o= --dry-run", "$ONNX -o $ONNX", "$ONNX -o $GOOD", "$ONNX -o /dev/null", "$ONNX -o /proc/out",
    ),
    "build-engines $ONNX -o out": (
        "--require-int8 nan", "--require-int8 2", "--expect-digest= --dry-run", "--expect-digest 0000 --dry-run",
        "--batch 2", "--batch 99999999999999999999", "--compute-capability 8.9", "--size 0x0", "--size -64x64",
        "--size 64", "--size 64x64x64", "--optimization-level 6", "--workspace -1",
    ),
    "build-engines $ONNX -o out --backend tensorrt-rtx --dry-run --compute-capability": (
        "x", "0.0", "nan", "1e9", "8.9 --size 1x1", "8.9 --min-size 512x512 --size 64x64",
    ),
    "compare $GOOD --engines $INT8 --reference $FLOAT -o": (
        "-", "$GOOD", "out --ground-truth nowhere", "out --ground-truth $GOOD", "out --parts-on -1",
        "out --min-psnr nan", "out --min-psnr x",
    ),
    "compare": (
        "nowhere --reference $FLOAT --engines $INT8 -o out", "$GOOD --reference $ONNX --engines $INT8 -o out",
        "$GOOD --reference $INT8 --engines $FLOAT -o out", "$GOOD --reference $FLOAT --engines $INT8 -o=",
        "$GOOD --reference $FLOAT/unet.onnx --engines $INT8 -o out",
    ),
    "benchmark --baseline $FP32 --engines $INT8": (
        "-o - --size 64x64", "-o out --size 100x100", "-o out --size 0x64", "-o out --size 640000x640000",
        "-o out --runs 0", "-o out --size 64x64 --threads 9999999999", "-o $GOOD --size 64x64",
        "-o= --size 64x64", "--onnx $INT8 -o out --size 64x64",
    ),
    "benchmark --baseline $FP32 --engines nowhere": ("-o out",),
}  # fmt: skip


@pytest.mark.parametrize("line", [f"{begin} {end}" for begin, ends in LINES.items() for end in ends])
def test_no_wrong_line_of_any_subcommand_is_taken(trial: Trial, line: str) -> None:
    trial.command(*trial.bench.words(line), accept=False, may=())


# after a run: what happens before the next, and how many of two pictures that one makes
CHANGES = {
    "nothing": 0, "other times": 0, "a copy back": 0, "another picture": 1, "the same size": 1,
    "another output": 1, "other engines": 2, "another option": 2, "no notes": 2,
    "notes of others": 2, "notes of noise": 2, "notes cut": 1, "notes a file": 2,
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_since_is_made_again_by_resume(trial: Trial, change: str) -> None:
    folder, bench, again = trial.folder, trial.bench, CHANGES[change]
    (folder / "in").mkdir()
    for name in ("a.png", "b.png"):
        pattern().save(folder / "in" / name)
    trial.infer("in", *(["--seed", "1"] if change == "another option" else []), accept=True, seconds=60)
    notes = next((folder / "out" / ".passionsr-batch").glob("*.jsonl"))
    source, target = folder / "in" / "b.png", folder / "out" / "b.png"
    lines = notes.read_bytes()
    if change == "other times":
        for path in (source, target):
            os.utime(path, (1, 1))
    elif change == "a copy back":
        source.write_bytes(source.read_bytes())
    elif change == "another picture":
        pattern((40, 32)).save(source)
    elif change == "the same size":
        data = bytearray(source.read_bytes())
        source.write_bytes(data)
        data[-1] ^= 1  # of the last chunk's checksum, which nobody reads
        source.write_bytes(data)
    elif change == "another output":
        pattern((40, 32)).save(target)
    elif change in ("no notes", "notes a file"):
        shutil.rmtree(notes.parent)
        if change == "notes a file":
            notes.parent.write_text("")
    elif change.startswith("notes"):
        text = {"cut": lines[:-30], "of others": lines.replace(b'"a', b'"x').replace(b'"b', b'"y')}
        notes.write_bytes(text.get(change.removeprefix("notes "), b"\xff\x00[" * 99))
    engines = bench.fp32 if change == "other engines" else bench.int8
    outcome = trial.infer("in", "--resume", engines=engines, accept=True, seconds=60)
    assert change == "other engines" or not difference(folder / "out" / "a.png", bench.result)
    assert f"{again} of {again} images written" in outcome.out if again else "written" not in outcome.out


@pytest.mark.parametrize("kind", ("png", "jpg", "webp"))
@pytest.mark.parametrize("ruin", ("empty", "cut", "text", "other size", "folder", "dangling", "FIFO", "temporary"))
def test_resume_over_what_these_engines_did_not_make(trial: Trial, ruin: str, kind: str) -> None:
    folder = trial.folder
    out = folder / "out"
    out.mkdir()
    target = out / f"good.{kind}"
    pattern((48, 32)).save(target)
    data = target.read_bytes()
    if ruin in ("empty", "cut", "text"):
        target.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"not a picture"}[ruin])
    elif ruin == "other size":
        pattern((40, 32)).save(target)
    elif ruin != "temporary":
        target.unlink()
        if ruin == "folder":
            target.mkdir()
        elif ruin == "dangling":
            target.symlink_to("nowhere")
        else:
            os.mkfifo(target)
    (folder / "in").mkdir()
    pattern().save(folder / "in" / "good.png")
    pattern().save(folder / "in" / "other.png")
    accept = None if ruin in ("folder", "FIFO") else True
    must = (f"out/other.{kind}",)
    outcome = trial.infer("in", "--resume", "--format", kind, accept=accept, must=must, warm=True)
    assert outcome.status or not difference(target, out / f"other.{kind}")
