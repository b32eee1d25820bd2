"""Options of every subcommand that are out of range, of another type, missing, doubled; --resume over ruins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.harness import Case, Outcome, Trial, in_process

KIND = "options"
NUMBERS = (
    "-1", "-64", "0", "1", "2147483648", "9223372036854775808", "9" * 400, "1e400", "nan", "-nan", "inf", "-inf",
    "",
    " ", "x", "1.5", "1_0", "٣", "0x10", "+1", "1e3", "\t", "null", "100", "-0",
)  # fmt: skip
INFER = ("--tile", "--overlap", "--batch", "--seed", "--threads", "--memory", "--cache-size")
CHOICES = {"--align": "adain", "--format": "png", "--provider": "cpu", "--background": "white"}
WRONG_CHOICES = ("", "ADAIN", "tiff", "exe", "../x", "\n")


def cases() -> Iterator[Case]:
    for option in INFER:
        for value in NUMBERS:
            yield Case(f"infer {option} {value[:24]!r}", KIND, partial(_infer, [option, value]))
    for option in CHOICES:
        for value in WRONG_CHOICES:
            yield Case(f"infer {option} {value!r}", KIND, partial(_infer, [option, value]))
    yield from words()
    yield from resume()


def _infer(words: list[str], folder: Path, bench: Bench) -> Trial:
    """Where the option is taken, the picture has to be what it is without it, or as tiles make it."""
    found = folder / "out" / "good.png"

    def right(_outcome: Outcome) -> str:
        if words[0] in ("--tile", "--overlap", "--align", "--provider"):
            return "" if found.is_file() else "no picture"
        return difference(found, bench.result)

    argv = ["infer", str(bench.good), "-o", "out", "--engines", str(bench.int8), *words]
    return Trial(argv, None, right, seconds=30)


def words() -> Iterator[Case]:
    """Whole command lines of each subcommand; none of them may be taken."""
    for label, line in LINES.items():
        yield Case(label, KIND, partial(_line, line.split(" ")))


# $…: the bench's own; no line is right
LINES = {
    "nothing": "",
    "unknown": "upscale",
    "infer nothing": "infer",
    "infer no engines": "infer $GOOD -o out",
    "infer unknown": "infer $GOOD -o out --engines $INT8 --sharpen 3",
    "infer empty engines": "infer $GOOD -o out --engines=",
    "infer engines missing": "infer $GOOD -o out --engines nowhere",
    "infer engines a file": "infer $GOOD -o out --engines $GOOD",
    "infer engines null": "infer $GOOD -o out --engines /dev/null",
    "infer engines onnx": "infer $GOOD -o out --engines $ONNX",
    "infer provider engines": "infer $GOOD -o out --engines $INT8 --provider cpu",
    "infer provider cuda": "infer $GOOD -o out --engines $ONNX --provider cuda",
    "infer provider tensorrt": "infer $GOOD -o out --engines $ONNX --provider tensorrt",
    "infer engines twice": "infer $GOOD -o out --engines $FP32 --engines $INT8",
    "infer output twice": "infer $GOOD -o out --output out --engines $INT8",
    "infer to standard output": "infer $GOOD -o - --engines $INT8",
    "infer one graph": "infer $GOOD -o out --engines $ONNX/unet.onnx",
    "infer a manifest": "infer $GOOD -o out --engines $INT8/manifest.json",
    "infer one graph by a provider": "infer $GOOD -o out --engines $ONNX/unet.onnx --provider cpu",
    "build to standard output": "build-engines $ONNX -o - --dry-run",
    "build output twice": "build-engines $ONNX -o out -o out --dry-run",
    "compare to standard output": "compare $GOOD --reference $FLOAT --engines $INT8 -o -",
    "compare one graph": "compare $GOOD --reference $FLOAT/unet.onnx --engines $INT8 -o out",
    "benchmark to standard output": "benchmark --engines $INT8 --baseline $FP32 -o - --size 64x64",
    "batch to standard output": "batch $GOOD - --engines $INT8",
    "batch engines twice": "batch $GOOD out --engines $INT8 --engines $INT8",
    "build nothing": "build-engines",
    "build missing": "build-engines nowhere -o out",
    "build a file": "build-engines $GOOD -o out",
    "build empty output": "build-engines $ONNX -o= --dry-run",
    "build engines": "build-engines $INT8 -o out",
    "build onto the bundle": "build-engines $ONNX -o $ONNX",
    "build onto a file": "build-engines $ONNX -o $GOOD",
    "build onto null": "build-engines $ONNX -o /dev/null",
    "build into proc": "build-engines $ONNX -o /proc/out",
    "build int8 nan": "build-engines $ONNX -o out --require-int8 nan",
    "build int8 2": "build-engines $ONNX -o out --require-int8 2",
    "build digest empty": "build-engines $ONNX -o out --expect-digest= --dry-run",
    "build digest wrong": "build-engines $ONNX -o out --expect-digest 0000 --dry-run",
    "build batch": "build-engines $ONNX -o out --batch 2",
    "build batch huge": "build-engines $ONNX -o out --batch 99999999999999999999",
    "build capability": "build-engines $ONNX -o out --compute-capability 8.9",
    "build rtx capability": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability x --dry-run",
    "build rtx capability 0": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability 0.0 "
    "--dry-run",
    "build rtx capability nan": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability nan "
    "--dry-run",
    "build rtx capability 1e9": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability 1e9 "
    "--dry-run",
    "build size": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability 8.9 --size 1x1 "
    "--dry-run",
    "build size 0": "build-engines $ONNX -o out --size 0x0",
    "build size negative": "build-engines $ONNX -o out --size -64x64",
    "build size one": "build-engines $ONNX -o out --size 64",
    "build size three": "build-engines $ONNX -o out --size 64x64x64",
    "build sizes": "build-engines $ONNX -o out --backend tensorrt-rtx --compute-capability 8.9 --min-size 512x512 "
    "--size 64x64 --dry-run",
    "build level": "build-engines $ONNX -o out --optimization-level 6",
    "build workspace": "build-engines $ONNX -o out --workspace -1",
    "predict nothing": "predict",
    "predict missing": "predict nowhere nowhere",
    "predict openvino": "predict $FP32 $INT8",
    "predict unknown": "predict $FP32 --gpu none",
    "compare nothing": "compare",
    "compare missing": "compare nowhere --reference $FLOAT --engines $INT8 -o out",
    "compare quantized": "compare $GOOD --reference $ONNX --engines $INT8 -o out",
    "compare swapped": "compare $GOOD --reference $INT8 --engines $FLOAT -o out",
    "compare onto a file": "compare $GOOD --reference $FLOAT --engines $INT8 -o $GOOD",
    "compare empty output": "compare $GOOD --reference $FLOAT --engines $INT8 -o=",
    "compare truth": "compare $GOOD --reference $FLOAT --engines $INT8 -o out --ground-truth nowhere",
    "compare truth a file": "compare $GOOD --reference $FLOAT --engines $INT8 -o out --ground-truth $GOOD",
    "compare parts": "compare $GOOD --reference $FLOAT --engines $INT8 -o out --parts-on -1",
    "compare psnr nan": "compare $GOOD --reference $FLOAT --engines $INT8 -o out --min-psnr nan",
    "compare psnr x": "compare $GOOD --reference $FLOAT --engines $INT8 -o out --min-psnr x",
    "benchmark nothing": "benchmark",
    "benchmark missing": "benchmark --engines nowhere --baseline $FP32 -o out",
    "benchmark size": "benchmark --engines $INT8 --baseline $FP32 -o out --size 100x100",
    "benchmark size 0": "benchmark --engines $INT8 --baseline $FP32 -o out --size 0x64",
    "benchmark size huge": "benchmark --engines $INT8 --baseline $FP32 -o out --size 640000x640000",
    "benchmark runs": "benchmark --engines $INT8 --baseline $FP32 -o out --runs 0",
    "benchmark threads": "benchmark --engines $INT8 --baseline $FP32 -o out --size 64x64 --threads 9999999999",
    "benchmark onto a file": "benchmark --engines $INT8 --baseline $FP32 -o $GOOD --size 64x64",
    "benchmark empty output": "benchmark --engines $INT8 --baseline $FP32 -o= --size 64x64",
    "benchmark onnx": "benchmark --engines $INT8 --baseline $FP32 --onnx $INT8 -o out --size 64x64",
    "doctor words": "doctor now",
    "doctor report": "doctor --gpu-report",
}  # fmt: skip


def _line(line: list[str], folder: Path, bench: Bench) -> Trial:
    values = {
        "$GOOD": bench.good, "$INT8": bench.int8, "$FP32": bench.fp32, "$ONNX": bench.onnx_int8,
        "$FLOAT": bench.onnx_fp32,
    }  # fmt: skip
    argv = []
    for word in filter(None, line):
        name, slash, rest = word.partition("/")
        argv.append(f"{values.get(name, name)}{slash}{rest}")
    return Trial(argv, False, may=())


def resume() -> Iterator[Case]:
    """--resume over what these engines did not make of what the picture is: all of it is made anew."""
    for kind in ("png", "jpg", "webp"):
        for ruin in ("empty", "cut", "text", "other size", "folder", "dangling", "FIFO", "temporary"):
            yield Case(f"resume {ruin} {kind}", KIND, partial(_resume, kind, ruin))
    for change, again in CHANGES.items():
        yield Case(f"resume after {change}", KIND, partial(_resume_after, change, again))


# after a run: what happens before the next, and how many of two pictures that one makes
CHANGES = {
    "nothing": 0, "other times": 0, "a copy back": 0, "another picture": 1, "the same size": 1,
    "another output": 1, "other engines": 2, "another option": 2, "no notes": 2,
    "notes of others": 2, "notes of noise": 2, "notes cut": 1, "notes a file": 2,
}  # fmt: skip


def _resume_after(change: str, again: int, folder: Path, bench: Bench) -> Trial:
    argv = ["infer", "in", "-o", "out", "--engines", str(bench.int8)]
    for name in ("a.png", "b.png"):
        (folder / "in").mkdir(exist_ok=True)
        pattern().save(folder / "in" / name)

    def both(where: Path) -> Outcome:
        first = in_process(Trial([*argv, *(["--seed", "1"] if change == "another option" else [])]), where)
        notes = next((where / "out" / ".passionsr-batch").glob("*.jsonl"))
        source, target = where / "in" / "b.png", where / "out" / "b.png"
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
        engines = str(bench.fp32 if change == "other engines" else bench.int8)
        second = in_process(Trial([*argv[:-1], engines, "--resume"]), where)
        return second if first.status == 0 else first

    def right(outcome: Outcome) -> str:
        written = f"{again} of {again} images written" in outcome.out if again else "written" not in outcome.out
        same = difference(folder / "out" / "a.png", bench.result) if change != "other engines" else ""
        return same or ("" if written else f"expected {again} done again: {outcome.out[-200:]}")

    return Trial([*argv, "--resume"], True, right, run=both, may=("out",), seconds=60)


def _resume(kind: str, ruin: str, folder: Path, bench: Bench) -> Trial:
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
    argv = ["infer", "in", "-o", "out", "--engines", str(bench.int8), "--resume", "--format", kind]

    def right(_outcome: Outcome) -> str:
        return difference(target, out / f"other.{kind}")

    return Trial(argv, None if ruin in ("folder", "FIFO") else True, right, must=(f"out/other.{kind}",), warm=True)
