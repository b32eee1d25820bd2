"""compare: engines against the float model, per part on captured tensors and end to end on pictures."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.build import versions
from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle, OnnxBundle, check_same_model
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.files import Found, find_pictures
from passionsr_trt.runtime.apps.benchmark import cpu_name
from passionsr_trt.runtime.apps.html_report import (
    check_report,
    command_line,
    kept,
    read_sensitivity,
    stated,
    write_comparison,
)
from passionsr_trt.runtime.apps.polygraphy_runner import compare_part
from passionsr_trt.runtime.apps.report_pictures import View, view
from passionsr_trt.runtime.apps.sheet import comparison_sheet, overview
from passionsr_trt.runtime.backends.loading import is_onnx, open_engines, open_onnx
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.files import in_folder
from passionsr_trt.runtime.core.metrics import measure, summarize
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.pictures.images import (
    chain_sources,
    read_picture,
    save_image,
    to_array,
    upscale,
)
from PIL import Image
from tqdm import tqdm

OVERVIEW = "overview.png"  # beside the pictures' sheets


def run_compare(arguments: argparse.Namespace) -> int:
    reference_bundle = OnnxBundle.load(arguments.reference)
    tested_bundle: Bundle
    if is_onnx(arguments.engines):
        onnx_bundle = tested_bundle = OnnxBundle.load(arguments.engines)
        open_tested = partial(open_onnx, onnx_bundle, provider=arguments.provider)
    else:
        engine_bundle = tested_bundle = EngineBundle.load(arguments.engines)
        open_tested = partial(open_engines, engine_bundle)
    check_same_model(reference_bundle, tested_bundle)
    if reference_bundle.spec is not None:
        raise UserError(f"{arguments.reference}: is quantized", "expected a float bundle", "use `export --float`")
    found, left = find_pictures(arguments.images, arguments.output)
    planned = in_folder(found, arguments.output, "png", OVERVIEW)
    for line in filter(None, (left.line(), *left.folders, *planned.refused)):
        print(printable(line), file=sys.stderr)
    if not planned.pairs:
        raise UsageError(planned.refused[0])
    images = [picture for picture in found if picture.path in planned.pairs]
    truths = find_truths(images, arguments.ground_truth)
    check_writable(arguments.output)
    sensitivity = None
    if arguments.html:
        check_report(arguments.html)
        sensitivity = read_sensitivity(arguments.sensitivity) if arguments.sensitivity else None
    elif arguments.sensitivity:
        raise UsageError(f"--sensitivity {arguments.sensitivity}", "expected --html as well")
    with (
        closing(open_onnx(reference_bundle, provider=arguments.provider)) as reference,
        closing(open_tested()) as tested,
    ):
        report, sheets, views = compare_all(reference, tested, images, truths, planned.pairs, arguments)
    save_image(overview(sheets), arguments.output / OVERVIEW)
    text = json.dumps(report, indent=1) + "\n"
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "comparison.json").write_text(text, encoding="utf-8")
    print_report(report, arguments.output)
    if arguments.html:
        facts = {"cpu": cpu_name(), "colour fix": arguments.align, "versions": report["versions"]}
        conditions = stated(facts, command_line(arguments))
        write_comparison(arguments.html, report, views, conditions, sensitivity)
        print(f"  report {arguments.html}")
    psnr = report["mean"]["to_float"]["psnr"]
    if arguments.min_psnr is not None and psnr < arguments.min_psnr:
        raise UserError(f"mean PSNR to the float model is {psnr:.2f} dB", f"expected ≥ {arguments.min_psnr:.2f}")
    return 1 if len(sheets) < len(images) or planned.refused or left.folders else 0


def compare_all(
    reference: Chain,
    tested: Chain,
    images: list[Found],
    truths: dict[Path, Path],
    targets: dict[Path, Path],
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], list[Image.Image], list[View]]:
    """The report, and of each image that could be compared a strip for the overview; its sheet is in `targets`.

    The last are what --html shows.
    """
    report: dict[str, Any] = {
        "reference": reference.label,
        "tested": tested.label,
        "align": arguments.align,
        "versions": versions(),
        "parts": compare_parts(reference, tested, [image.path for image in images[: arguments.parts_on]]),
        "images": {},
    }
    sheets: list[Image.Image] = []
    views: list[View] = []
    options = Options(align=arguments.align)
    for image in tqdm(images, desc="comparing", unit="image"):
        path = image.path
        try:
            row, pictures = compare_image(reference, tested, path, truths.get(path), options)
        except UserError as error:
            tqdm.write(printable(f"error: {error}"), file=sys.stderr)
            continue
        report["images"][image.name] = row
        panels = [(name, pictures[name]) for name in ("LR", "bicubic", "float", tested_name(tested))]
        caption = f"{path.stem}: {row['to_float']['psnr']:.1f} dB, LPIPS {row['to_float']['lpips']:.4f} to float"
        save_image(comparison_sheet(panels, caption), targets[path])
        sheets.append(comparison_sheet(panels, caption, crop=192))
        if arguments.html:
            del pictures["LR"]
            views = kept([*views, view(image.name, row, pictures)])
    if not sheets:
        raise UserError("no image could be compared", "expected at least one")
    report["mean"] = {
        key: summarize([row[key] for row in report["images"].values() if key in row])
        for key in ("to_float", "float_to_truth", "tested_to_truth", "bicubic_to_truth")
        if any(key in row for row in report["images"].values())
    }
    return report, sheets, views


def tested_name(tested: Chain) -> str:
    """`INT8`."""
    return tested.label.split()[-1]


def find_truths(images: list[Found], folder: Path | None) -> dict[Path, Path]:
    """Originals by equal stem (`NAME_LR4` finds `NAME_HR`, `NAME`), in the same sub-folder or the only one."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "expected the originals")
    stems: dict[str, dict[str, Path]] = {}  # stem → sub-folder → path
    for original in find_pictures([folder])[0]:
        stems.setdefault(original.path.stem, {})[str(Path(original.name).parent)] = original.path
    found = {}
    for image in images:
        stem = image.path.stem
        base = stem.rsplit("_LR", 1)[0]
        places = next((stems[name] for name in (stem, f"{base}_HR", base) if name in stems), {})
        match = places.get(str(Path(image.name).parent))
        if match is None and len(places) == 1:
            (match,) = places.values()
        if match is None:
            expected = "expected one with the same stem" + (" in the same sub-folder" if places else "")
            raise UserError(f"{folder}: no original of {image.name}", expected)
        found[image.path] = match
    return found


def compare_parts(reference: Chain, tested: Chain, images: list[Path]) -> dict[str, dict[str, float]]:
    """Every part alone, each fed the float chain's own tensors."""
    captured: list[dict[str, np.ndarray]] = []
    for path in images:
        try:
            rgb = read_picture(path).rgb
        except UserError:
            continue
        enlarged = to_array(upscale(rgb, reference.model.upscale))
        sources = chain_sources(rgb, enlarged, reference.parts, seed=0)
        captured.append(reference.tensors(sources))
    if not captured:
        return {}
    return {
        part.name: compare_part(part, reference, tested, captured)
        for part in tqdm(reference.parts, desc="parts", unit="part")
    }


def compare_image(
    reference: Chain, tested: Chain, path: Path, truth_path: Path | None, options: Options
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Figures of one image, and its versions by name, of one size."""
    picture = read_picture(path)
    expected, found = (super_resolve(chain, picture.rgb, options) for chain in (reference, tested))
    row: dict[str, Any] = {"to_float": measure(expected.image, found.image)}
    pictures = {"float": expected.image, tested_name(tested): found.image}
    if truth_path is not None:
        truth = read_picture(truth_path).rgb
        if truth.size != found.image.size:
            raise UserError(
                f"{truth_path}: {truth.width}×{truth.height} pixels",
                f"expected {found.image.width}×{found.image.height}",
            )
        pictures["original"] = truth
        row["float_to_truth"] = measure(truth, expected.image)
        row["tested_to_truth"] = measure(truth, found.image)
        row["bicubic_to_truth"] = measure(truth, found.bicubic)
    pictures["bicubic"] = found.bicubic
    pictures["LR"] = picture.rgb.resize(found.image.size, Image.Resampling.NEAREST)
    return row, pictures


def print_report(report: dict[str, Any], output: Path) -> None:
    print(f"\n{report['tested']} against {report['reference']}, align {report['align']}")
    for part, figures in report["parts"].items():
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
        print(f"  {part:<12} {text}  (polygraphy)")
    names = {
        "to_float": "to float output",
        "float_to_truth": "float to original",
        "tested_to_truth": f"{report['tested'].split()[-1]} to original",
        "bicubic_to_truth": "bicubic to original",
    }
    print(
        f"  {'mean over ' + str(len(report['images'])) + ' images':<22} PSNR dB (worst)   SSIM     LPIPS (worst)"
    )
    for key, row in report["mean"].items():
        print(
            f"  {names[key]:<22} {row['psnr']:6.2f} ({row['psnr_worst']:5.2f})   {row['ssim']:.4f}   "
            f"{row['lpips']:.4f} ({row['lpips_worst']:.4f})"
        )
    print(f"  pictures and comparison.json in {output}")
