"""Options of every subcommand that are out of range, of another type, missing, doubled; --resume over ruins."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.harness import Case, Outcome, Trial

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
    argv = [str(values.get(word, word)) for word in line if word]
    return Trial(argv, False, may=())


def resume() -> Iterator[Case]:
    """--resume over what an earlier run did not leave: those are made anew, whole ones are left alone."""
    for kind in ("png", "jpg", "webp"):
        for ruin in ("empty", "cut", "text", "other size", "folder", "dangling", "FIFO", "temporary"):
            yield Case(f"resume {ruin} {kind}", KIND, partial(_resume, kind, ruin))


def _resume(kind: str, ruin: str, folder: Path, bench: Bench) -> Trial:
    import os

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
        if ruin == "other size":  # a picture, of whatever origin
            return ""
        return difference(target, out / f"other.{kind}") if ruin != "temporary" else ""

    return Trial(argv, None if ruin in ("folder", "FIFO") else True, right, must=(f"out/other.{kind}",), warm=True)
