"""import-model, calibrate and export: checkpoints → model folder → calibration → ONNX bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.bundles import MOST_NAME, OnnxBundle, is_name, load_intact
from passionsr_trt.engines.bundle.formats import CODE_FORMATS, INT8, PRECISIONS
from passionsr_trt.engines.bundle.manifest import MANIFEST, check_target
from passionsr_trt.engines.bundle.spec import METHODS, QuantSpec
from passionsr_trt.engines.bundle.wiring import ALIGNMENTS, chain_multiple
from passionsr_trt.engines.common.arguments import (
    CALIBRATIONS,
    check_multiple,
    device_name,
    parse_size,
    some_input,
    some_path,
    whole,
)
from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.next_step import PHOTOS, say_next
from passionsr_trt.engines.common.user_cache import one_at_a_time
from passionsr_trt.engines.common.writing import check_writable

if TYPE_CHECKING:
    from passionsr_trt.export.calibrate.compute import Compute
    from passionsr_trt.export.quantize.calibration import Calibration


CACHE_HELP = "where calibrations are kept, by content; the same command goes on with one that was interrupted"


METHOD_HELP = (
    "how scales are chosen, in place of the spec's method (default: the spec's, without one search). The "
    "figures are Real-ESRGAN's in W8A8, PSNR to float on photos and on drawn pictures (docs/quality.md). "
    "search: LET and clipping ranges, port by port; 38.9 and 37.0 dB. learned: goes on from there, LET and "
    "below 8 bits LBQ by DQC; 39.9 and 37.4 dB in several times the time, and the one for fewer than 8 bits. "
    "range: clipping ranges of your pictures alone, the quickest; 38.2 and 32.6 dB. smoothquant: to compare "
    "with; 36.4 and 34.4 dB"
)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=device_name,
        default="auto",
        metavar="auto|cpu|cuda|cuda:N",
        help="where PyTorch computes; auto: a CUDA device where PyTorch has one, else the CPU. Results of two "
        "kinds of device agree to rounding, not bit by bit",
    )


def add_import_model(parser: argparse.ArgumentParser) -> None:
    from passionsr_trt.export.families.hub import add_arguments
    from passionsr_trt.export.families.registry import FAMILIES, add_options

    written = "model folder to write (float32); of an image network also a .safetensors file"
    parser.add_argument("-o", "--output", type=some_path, required=True, help=written)
    parser.add_argument(
        "base",
        type=Path,
        nargs="?",
        help="Stable Diffusion 2.1-base: a diffusers folder, one .safetensors or .ckpt file, or OWNER/NAME on the "
        "Hugging Face hub (its first page is gone, copies such as sd2-community's remain); an image network: its "
        "file, OWNER/NAME, or ncnn's .param",
    )
    parser.add_argument("weights", type=Path, nargs="?", help="ncnn's .bin, where it is not beside the .param")
    names = [family.name for family in FAMILIES]
    parser.add_argument(
        "--family", choices=names, help=f"the kind of model (default: {names[0]}; of ncnn's files: image-network)"
    )
    add_arguments(parser.add_argument_group("Hugging Face hub"))
    add_options(parser)
    parser.set_defaults(run=run_import_model)


def run_import_model(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.families.hub import located
    from passionsr_trt.export.families.recognised import check_base
    from passionsr_trt.export.families.registry import FAMILIES, importer

    family = importer(arguments)
    arguments.base = located(family, arguments)
    check_base(arguments.base, family, FAMILIES)
    status = family.import_model(arguments)
    if status == 0:
        output = Path("out", arguments.output.stem)
        say_next("quantize", arguments.output, "--images", PHOTOS, "-o", output)
    return status


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder, or an image network's own file")
    parser.add_argument(
        "--images", type=some_input, required=True, help="folder of low-resolution images, with its sub-folders"
    )
    parser.add_argument("--limit", type=whole(1), default=32, help="use the first N images that can be read")
    parser.add_argument("--spec", type=Path, help="JSON of what is quantized and how (default: 8 bits, `search`)")
    parser.add_argument(
        "--method",
        choices=METHODS,
        help=METHOD_HELP,
    )
    parser.add_argument("--cache", type=some_path, default=CALIBRATIONS, help=CACHE_HELP)
    parser.add_argument(
        "-o", "--output", type=some_path, help="folder that gets the calibration as well, for export --calibration"
    )
    parser.add_argument("--force", action="store_true", help="calibrate even where the cache has the result")
    parser.add_argument(
        "--low-memory",
        action="store_true",
        help="learned calibration recomputes activations: the same result in less memory, a third slower",
    )
    add_device(parser)
    parser.set_defaults(run=run_calibrate)


def run_calibrate(arguments: argparse.Namespace) -> int:
    from passionsr_trt.export.calibrate.compute import together

    with together(arguments.device) as compute:
        return calibrated(arguments, compute)


def calibrated(arguments: argparse.Namespace, compute: Compute) -> int:
    """What one process does; of several the first one holds the lock, writes and speaks."""
    from passionsr_trt.export.calibrate.data import calibration_files, data_digest
    from passionsr_trt.export.calibrate.pipeline import calibrate
    from passionsr_trt.export.families.registry import check_model, load_model
    from passionsr_trt.export.families.weights import model_digest
    from passionsr_trt.export.quantize.calibration import Calibration, calibration_key

    spec = QuantSpec.load(arguments.spec) if arguments.spec else QuantSpec()
    if arguments.method:
        spec = replace(spec, method=arguments.method)
    files = calibration_files(arguments.images, arguments.limit, quiet=not compute.leads)
    check_model(arguments.model)
    if arguments.output is not None:
        check_target(arguments.output, "calibration")
    folder = arguments.cache / calibration_key(model_digest(arguments.model), spec, data_digest(files))
    with one_at_a_time(folder, "calibrating") if compute.leads else nullcontext():
        (present,) = compute.exchanged((not arguments.force and (folder / MANIFEST).is_file(),), owner=0)
        if present:
            calibration = Calibration.load(folder)
            if compute.leads:
                print(f"{folder}: already calibrated for this model, spec and images; reused (--force to redo)")
                say_calibrated(arguments, calibration, folder)
            return 0
        model = load_model(arguments.model)
        model.forget_reference()
        partial = folder.with_name(f"{folder.name}.partial")
        with naming_what_is_kept(partial, compute):
            calibration = calibrate(model, spec, files, compute, partial, arguments.low_memory)
        if not compute.leads:
            return 0
        calibration.save(folder)
    print(f"{folder}: {counted(len(calibration.quant.sites), 'site')} from {counted(len(files), 'image')}")
    say_calibrated(arguments, calibration, folder)
    return 0


def say_calibrated(arguments: argparse.Namespace, calibration: Calibration, folder: Path) -> None:
    """What comes next, with the calibration from --output where it is to be there too."""
    if arguments.output is not None:
        calibration.save(arguments.output)
        folder = arguments.output
    say_next("export", arguments.model, "--calibration", folder, "-o", Path("out", "onnx", "int8"))


@contextmanager
def naming_what_is_kept(partial: Path, compute: Compute) -> Iterator[None]:
    """Where Ctrl-C or SIGTERM end the work, say what is kept of it."""
    try:
        yield
    except KeyboardInterrupt:
        if partial.is_dir() and compute.leads:
            print(f"{partial} keeps what was found so far: the same command goes on from there", file=sys.stderr)
        raise


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="model folder, or an image network's own file")
    parser.add_argument("-o", "--output", type=some_path, required=True, help="folder for the ONNX bundle")
    add_own_calibration(parser)
    parser.add_argument("--float", action="store_true", help="export the float twin, no quantization")
    parser.add_argument(
        "--format",
        choices=tuple(CODE_FORMATS),
        default="int8",
        help="of codes: fp8 (E4M3) from the same calibration, for TensorRT on compute capability 8.9 and newer; "
        "further from the float model than a learned int8. w8 and w8-fp8: of weights alone, in INT8 or FP8, for "
        "TensorRT: closest to the float model, smallest engines, no faster than float",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="fp32",
        help="of everything that is not quantized: fp32 for OpenVINO, fp16 for TensorRT, bf16 for TensorRT where "
        "half precision overflows (compute capability 8.0 and newer)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="HxW",
        help="fix the image size, and the batch to 1 (default: any size that the model takes, any batch)",
    )
    add_name(parser)
    parser.add_argument("--force", action="store_true", help="export even where an equal bundle is there")
    parser.add_argument(
        "--single-file",
        type=some_path,
        metavar="FILE",
        help="write the chain as one .onnx too, picture in, picture out, for other tools",
    )
    parser.add_argument(
        "--align", choices=ALIGNMENTS, help="colour fix in --single-file (default: the model's own)"
    )
    parser.add_argument(
        "--images",
        type=some_input,
        metavar="FOLDER",
        help="of --precision fp16: low-resolution pictures like yours, on which it measures how far values reach; "
        "around those that come near half precision's end it stays float32 (default: drawn pictures alone)",
    )
    add_device(parser)
    parser.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    if arguments.single_file is not None:
        if arguments.single_file.suffix != ".onnx" or arguments.single_file.is_dir():
            raise UsageError(f"--single-file {arguments.single_file}", "expected a file name ending in .onnx")
        check_writable(arguments.single_file.parent)
    elif arguments.align is not None:
        raise UsageError(f"--align {arguments.align}", "expected --single-file as well; `infer` has its own")
    bundle = exported(arguments)
    if arguments.single_file is not None:
        from passionsr_trt.export.onnx.single_file import write_single_file

        arguments.single_file.parent.mkdir(parents=True, exist_ok=True)
        write_single_file(bundle, arguments.single_file, arguments.align)
        print(f"{arguments.single_file}: the chain in one file, the same bits as {arguments.output}")
    say_next("build-engines", arguments.output, "-o", engines_beside(arguments.output), *gpu_options(bundle))
    return 0


def engines_beside(onnx: Path) -> Path:
    """Where a bundle's engines may go: out/onnx/int8 → out/engines/int8."""
    if onnx.parent.name == "onnx":
        return onnx.parent.with_name("engines") / onnx.name
    return onnx.with_name(f"{onnx.name}-engines")


def gpu_options(bundle: OnnxBundle) -> list[str]:
    """Of build-engines, for a bundle in half precision, which is for GPUs."""
    return ["--backend", "tensorrt-rtx", "--compute-capability", "8.9"] if bundle.precision != "fp32" else []


def exported(arguments: argparse.Namespace) -> OnnxBundle:
    """The bundle in --output, made or found there."""
    from passionsr_trt.export.calibrate.compute import refuse_several
    from passionsr_trt.export.families.registry import check_model, load_model
    from passionsr_trt.export.families.weights import model_digest

    refuse_several("export")
    check_model(arguments.model)
    check_target(arguments.output, "onnx-bundle")
    digest = model_digest(arguments.model)
    calibration = None
    if arguments.float and arguments.format != INT8.name:
        raise UsageError(f"--float and --format {arguments.format}", "expected one of them")
    if not arguments.float:
        calibration = own_calibration(arguments, digest)
    key = None if calibration is None else calibration.digest
    photos, measured_on = photos_to_measure(arguments)
    if not arguments.force and is_current(arguments, digest, key, measured_on):
        print(f"{arguments.output}: this model, calibration and precision are exported already; reused")
        return OnnxBundle.load(arguments.output)
    from passionsr_trt.export.model.devices import chosen_device
    from passionsr_trt.export.onnx.bundle import export_bundle
    from passionsr_trt.export.onnx.to_onnx import ExportPlan

    device = chosen_device(arguments.device)
    size = arguments.size or ExportPlan.size
    plan = ExportPlan(
        size,
        arguments.size is None,
        arguments.precision,
        arguments.format,
        name_of(arguments),
        photos,
        measured_on,
    )
    model = load_model(arguments.model)
    if arguments.size is not None:
        check_multiple(size, chain_multiple(model.parts))
    bundle = export_bundle(model, calibration, plan, arguments.output, consume=True, device=device)
    for part in bundle.parts:
        quantized = sum(site.quantized for site in part.sites)
        macs, written = sum(site.macs for site in part.sites), sum(site.macs_written for site in part.sites)
        fewer = f" ({written / 1e9:.1f} as the model writes them)" if macs != written else ""
        print(
            f"{part.name:<12} {quantized}/{len(part.sites)} sites quantized, {macs / 1e9:.1f} GMAC a 512×512 "
            f"picture{fewer}, {part.file}"
        )
    return bundle


def photos_to_measure(arguments: argparse.Namespace) -> tuple[tuple[Path, ...], str]:
    """The first pictures of --images, and their digest. UsageError where nothing is measured on them."""
    if arguments.images is None:
        return (), ""
    if arguments.precision != "fp16":
        raise UsageError(
            f"--images with --precision {arguments.precision}", "expected fp16, which is measured on them"
        )
    from passionsr_trt.export.calibrate.data import calibration_files, data_digest
    from passionsr_trt.export.onnx.overflow import PHOTOS

    files = calibration_files(arguments.images, PHOTOS)
    return tuple(files), data_digest(files)


def is_current(arguments: argparse.Namespace, digest: str, key: str | None, measured_on: str = "") -> bool:
    """True where the output already holds this model, calibration, precision, size and name, undamaged.

    measured_on: the digest of the pictures that half precision is measured on.
    """
    present = load_intact(OnnxBundle, arguments.output)
    if present is None:
        return False
    if key is not None and not any(part.format == arguments.format for part in present.parts):
        return False
    model = present.model
    same = (model.digest, present.calibration_key, present.precision, model.size, model.name, present.measured_on)
    return same == (digest, key, arguments.precision, arguments.size, name_of(arguments), measured_on)


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        type=model_name,
        help="what the model is called, shown wherever its engines run (default: its file's or folder's own name)",
    )


def name_of(arguments: argparse.Namespace) -> str:
    """--name, or what the model's file or folder is called, or empty where that is no name."""
    if arguments.name is not None:
        return str(arguments.name)
    model = arguments.model.resolve()
    own = model.stem if model.is_file() else model.name
    return own if is_name(own) else ""


def model_name(text: str) -> str:
    """An argparse type: what a model is called."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r}: expected at most {MOST_NAME} printable characters")
    return text


def add_own_calibration(parser: argparse.ArgumentParser) -> None:
    """The options that `own_calibration` reads."""
    parser.add_argument(
        "--calibration", type=Path, help="calibration folder (default: the model's own in --cache)"
    )
    parser.add_argument("--cache", type=Path, default=CALIBRATIONS, help="folder of calibrations")


def own_calibration(arguments: argparse.Namespace, digest: str) -> Calibration:
    """The calibration that --calibration names, or the model's own in --cache; UserError for another model's."""
    from passionsr_trt.export.quantize.calibration import Calibration, find_calibration

    if arguments.calibration is None:
        return find_calibration(arguments.cache, digest)
    calibration = Calibration.load(arguments.calibration)
    if calibration.model_digest != digest:
        raise UserError(f"{arguments.calibration}: made for another model", f"expected one of {arguments.model}")
    return calibration
