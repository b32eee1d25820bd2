"""The steps of `quantize`: a model and pictures → commands of this project, and where each leaves its result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import read_picture
from passionsr_trt.engines.target_device import TargetDevice

TEST_PICTURES = 8
TEST_SIDE = 192  # pixels of a test picture, before it is enlarged: large ones would take hours under ONNX Runtime


@dataclass(frozen=True)
class QuantizeRequest:
    """quantize. images: a folder of low-resolution pictures; device: what the engines are for.

    method, spec, limit, low_memory, compute_on: `calibrate`'s, its --device the last. cache: where calibrations
    are kept by content, None: in the output. test, ground_truth, drawn: what `compare` judges on; test None: crops
    of `images`. name: what the model is called, None: as its file or folder is.
    """

    model: Path
    images: Path
    output: Path
    device: TargetDevice
    method: str | None = None
    spec: Path | None = None
    limit: int = 32
    cache: Path | None = None
    low_memory: bool = False
    compute_on: str = "auto"
    test: Path | None = None
    ground_truth: Path | None = None
    drawn: bool = False
    name: str | None = None


@dataclass(frozen=True)
class Quantized:
    """What `quantize` leaves in its output folder.

    onnx: the quantized bundle, float_onnx its float32 twin. engines, float_engines: None where they can only be
    built on the GPU that they are for. report: a page, INT8 or FP8 against float. speed: a page of times measured
    here; predicted: JSON of predicted ones where the engines cannot run here; each None where it is not made.
    """

    output: Path
    calibration: Path
    onnx: Path
    float_onnx: Path
    engines: Path | None
    float_engines: Path | None
    report: Path
    speed: Path | None
    predicted: Path | None


@dataclass(frozen=True)
class Step:
    """words: of the command. made: its results, where the command itself does not find them again and keep them;
    of: what they are made of. anywhere: they are the same on every machine.
    """

    words: tuple[str, ...]
    made: tuple[Path, ...] = ()
    of: tuple[Path, ...] = ()
    anywhere: bool = True


def results(request: QuantizeRequest) -> Quantized:
    """Where everything will be."""
    out, device = request.output, request.device
    built = device.builds_here
    return Quantized(
        output=out,
        calibration=out / "calibration",
        onnx=out / "onnx" / device.format.name,
        float_onnx=out / "onnx" / "float",
        engines=out / "engines" if built else None,
        float_engines=out / "float" if built else None,
        report=out / "report.html",
        speed=out / "speed.html" if device.here else None,
        predicted=out / "predicted.json" if built and not device.here and device.gpus else None,
    )


def steps(request: QuantizeRequest) -> Iterator[Step]:
    """One after another; a later one is made when those before it have run."""
    made = results(request)
    yield _calibrate(request, made)
    yield from _export(request, made)
    yield from _build(request, made)
    yield _compare(request, made)
    if made.speed is not None:
        yield _benchmark(request.device, made)
    if made.predicted is not None:
        yield _predict(request.device, made)


def _step(*words: object, made: tuple[Path, ...] = (), of: tuple[Path, ...] = (), anywhere: bool = True) -> Step:
    return Step(tuple(map(str, words)), made, of, anywhere)


def _calibrate(request: QuantizeRequest, made: Quantized) -> Step:
    spec = request.spec or _own_spec(request)
    return _step(
        "calibrate",
        request.model,
        *("--images", request.images, "--limit", request.limit),
        *(() if spec is None else ("--spec", spec)),
        *(() if request.method is None else ("--method", request.method)),
        *(("--low-memory",) if request.low_memory else ()),
        *_computing(request),
        *("--cache", request.cache or request.output / "calib_cache", "-o", made.calibration),
    )


def _own_spec(request: QuantizeRequest) -> Path | None:
    """Of a CPU whose INT8 saturates with full-range weights: codes that it is exact for. Else none is needed."""
    if request.device.backend.on_gpu:
        return None
    from passionsr_trt.engines.openvino.compile import openvino_int8_exact

    if openvino_int8_exact(FULL_RANGE):
        return None
    path = request.output / "spec.json"
    write_atomic(path, f"{json.dumps({'weight_code_limit': HALF_RANGE.high})}\n".encode())
    print(f"this CPU has no VNNI: calibrated for weight codes within {HALF_RANGE} ({path})")
    return path


def _computing(request: QuantizeRequest) -> tuple[str, ...]:
    return () if request.compute_on == "auto" else ("--device", request.compute_on)


def _export(request: QuantizeRequest, made: Quantized) -> Iterator[Step]:
    device, common = request.device, _computing(request)
    common += () if request.name is None else ("--name", request.name)
    half = ("--precision", device.precision, "--images", request.images) if device.backend.on_gpu else ()
    codes = ("--format", device.format.name) if device.backend.on_gpu else ()
    calibration = ("--calibration", made.calibration)
    yield _step("export", request.model, *calibration, *half, *codes, *common, "-o", made.onnx)
    yield _step("export", request.model, "--float", *common, "-o", made.float_onnx)
    if half and made.float_engines:
        yield _step("export", request.model, "--float", *half, *common, "-o", _float_to_build(request, made))


def _float_to_build(request: QuantizeRequest, made: Quantized) -> Path:
    """The float bundle that engines are compared with in speed: half precision on a GPU."""
    return made.float_onnx if request.device.precision == "fp32" else made.float_onnx.with_name("fp16")


def _build(request: QuantizeRequest, made: Quantized) -> Iterator[Step]:
    device = request.device
    if made.engines is None:
        return
    options: tuple[str, ...] = ()
    if device.backend.on_gpu:
        options = ("--backend", device.backend.name)
        options += ("--compute-capability", device.capability) if device.backend.compiles_on_gpu else ()
    yield _step("build-engines", made.onnx, "-o", made.engines, *options)
    yield _step("build-engines", _float_to_build(request, made), "-o", made.float_engines, *options)


def _compare(request: QuantizeRequest, made: Quantized) -> Step:
    tested = made.engines if made.engines and request.device.here else made.onnx
    test = request.test or write_test_pictures(request.images, request.limit, request.output / "test")
    truth = request.ground_truth
    output = made.output / "compare"
    return _step(
        "compare",
        test,
        *("--reference", made.float_onnx, "--engines", tested),
        *(() if truth is None else ("--ground-truth", truth)),
        *(("--drawn",) if request.drawn else ()),
        *("-o", output, "--html", made.report),
        made=(output / "comparison.json", made.report),
        of=(test, made.float_onnx, tested, *(() if truth is None else (truth,))),
    )


def write_test_pictures(images: Path, limit: int, output: Path) -> Path:
    """The middle of the last pictures of a folder, of those behind the first `limit` where there are any: what
    calibration has not seen. UserError where none can be read.
    """
    found = list_images([images])
    crops: dict[str, bytes] = {}
    for path in reversed(found[limit:] or found):
        try:
            crops[f"test-{len(crops)}-{path.stem}.png"] = _middle(path)
        except UserError:
            continue  # calibrate says it
        if len(crops) == TEST_PICTURES:
            break
    if not crops:
        raise UserError(f"{images}: no picture to compare on can be read", "expected some", "--test names others")
    for name, content in crops.items():
        write_atomic(output / name, content)
    for path in output.glob("test-*.png"):
        if path.name not in crops:
            path.unlink()
    seen = "that calibration does not use" if found[limit:] else "of the calibration's own; --test names others"
    print(f"{output}: the middle of {len(crops)} pictures {seen}")
    return output


def _middle(path: Path) -> bytes:
    """A PNG file."""
    from io import BytesIO

    rgb = read_picture(path).rgb
    width, height = (min(side, TEST_SIDE) for side in rgb.size)
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    file = BytesIO()
    rgb.crop((left, top, left + width, top + height)).save(file, "PNG")
    return file.getvalue()


def _benchmark(device: TargetDevice, made: Quantized) -> Step:
    assert made.engines is not None and made.float_engines is not None and made.speed is not None
    output = made.output / "benchmark"
    return _step(
        "benchmark",
        *("--engines", made.engines, "--baseline", made.float_engines),
        *(("--onnx", made.float_onnx) if not device.backend.on_gpu else ()),
        *("-o", output, "--html", made.speed),
        made=(output / "benchmark.json", made.speed),
        of=(made.engines, made.float_engines, made.float_onnx),
        anywhere=False,
    )


def _predict(device: TargetDevice, made: Quantized) -> Step:
    assert made.engines is not None and made.float_engines is not None and made.predicted is not None
    names = (word for name in device.gpus for word in ("--gpu", name))
    return _step(
        *("predict", made.float_engines, made.engines, *names, "-o", made.predicted),
        made=(made.predicted,),
        of=(made.engines, made.float_engines),
    )
