"""compare: engines against the float model, per part on captured tensors and end to end on pictures."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.build import versions
from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle, OnnxBundle, check_same_model
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.drawn_set import EXTREME, drawn_set
from passionsr_trt.engines.pictures.files import Found, find_pictures
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.runtime.apps.benchmark import cpu_name
from passionsr_trt.runtime.apps.clipping import clipping, clipping_line
from passionsr_trt.runtime.apps.drift_plot import drift_plot
from passionsr_trt.runtime.apps.html_report import (
    check_report,
    kept,
    read_sensitivity,
    stated,
    write_comparison,
    write_drift,
)
from passionsr_trt.runtime.apps.report_pictures import View, comparison_sheet, overview, view
from passionsr_trt.runtime.backends.loading import is_onnx, open_engines, open_onnx
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import measure, summarize
from passionsr_trt.runtime.core.outputs import in_folder
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.pictures.images import save_image
from PIL import Image
from polygraphy.backend.base import BaseRunner
from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, PsnrCompareFunc, SnrCompareFunc
from polygraphy.logger import G_LOGGER

OVERVIEW, DRAWN, DRIFT = "overview.png", "drawn.png", "drift.svg"  # beside the pictures' sheets
DRAWN_SIDE = 128  # pixels of a drawn picture, before it is enlarged
PART_METRICS = {
    "cosine_similarity": CosineSimilarityCompareFunc,
    "psnr": PsnrCompareFunc,
    "snr": SnrCompareFunc,
}


@dataclass(frozen=True)
class CompareRequest:
    """reference: a float ONNX bundle; engines: under test, or an ONNX bundle under ONNX Runtime's `provider`.

    parts_on: images whose parts are compared one by one. drawn: compare pictures unlike photos too, which the
    package draws, apart from the images. min_psnr: dB, a mean over the images of less is a failure. html: a page
    that is written too, with what the file `sensitivity` says; command: as typed, shown there.
    """

    images: list[Path]
    reference: Path
    engines: Path
    output: Path
    ground_truth: Path | None = None
    align: str = "none"
    provider: str = "cpu"
    parts_on: int = 2
    drawn: bool = False
    min_psnr: float | None = None
    html: Path | None = None
    sensitivity: Path | None = None
    command: str = ""


def compare(request: CompareRequest) -> int:
    """Report and pictures into `output`; 0 where every image was compared. UserError below `min_psnr`."""
    import skimage.metrics  # noqa: F401  # missing: said now, not after the work

    open_reference, open_tested, bundle = load_bundles(request)
    found, left = find_pictures(request.images, request.output)
    planned = in_folder(found, request.output, "png", OVERVIEW, DRAWN)
    for line in filter(None, (left.line(), *left.folders, *planned.refused)):
        print(printable(line), file=sys.stderr)
    if not planned.pairs:
        raise UsageError(planned.refused[0])
    images = [picture for picture in found if picture.path in planned.pairs]
    truths = find_truths(images, request.ground_truth)
    check_writable(request.output)
    sensitivity = None
    if request.html:
        check_report(request.html)
        sensitivity = read_sensitivity(request.sensitivity) if request.sensitivity else None
    elif request.sensitivity:
        raise UsageError(f"--sensitivity {request.sensitivity}", "expected --html as well")
    with closing(open_reference()) as reference, closing(open_tested()) as tested:
        report, sheets, views = compare_all(reference, tested, images, truths, planned.pairs, request)
        if request.drawn:
            report["drawn"], strips, drawn_views = compare_drawn(reference, tested, Options(align=request.align))
            save_image(overview(strips, limit=len(strips)), request.output / DRAWN)
            views = kept([*views, *drawn_views])
        pictures = {"images": readable([image.path for image in images[: request.parts_on]])}
        if request.drawn:
            pictures["drawn"] = iter(drawn_set(DRAWN_SIDE).values())
        report["clipped"] = clipping(bundle, tested, pictures)
    save_image(overview(sheets), request.output / OVERVIEW)
    text = json.dumps(report, indent=1) + "\n"
    request.output.mkdir(parents=True, exist_ok=True)
    (request.output / "comparison.json").write_text(text, encoding="utf-8")
    if plot := drift_plot(report["parts"]):
        write_drift(request.output / DRIFT, plot, tested_name(tested))
    print_report(report, request.output)
    if request.html:
        facts = {"cpu": cpu_name(), "colour fix": request.align, "versions": report["versions"]}
        write_comparison(request.html, report, views, stated(facts, request.command), sensitivity)
        print(f"  report {request.html}")
    psnr = report["mean"]["to_float"]["psnr"]
    if request.min_psnr is not None and psnr < request.min_psnr:
        raise UserError(f"mean PSNR to the float model is {psnr:.2f} dB", f"expected ≥ {request.min_psnr:.2f}")
    return 1 if len(sheets) < len(images) or planned.refused or left.folders else 0


def load_bundles(request: CompareRequest) -> tuple[Callable[[], Chain], Callable[[], Chain], Bundle]:
    """What opens the reference and what is under test, and the latter's bundle.

    UserError where they are not of one model.
    """
    reference = OnnxBundle.load(request.reference)
    tested: Bundle
    if is_onnx(request.engines):
        onnx_bundle = tested = OnnxBundle.load(request.engines)
        open_tested = partial(open_onnx, onnx_bundle, provider=request.provider)
    else:
        engine_bundle = tested = EngineBundle.load(request.engines)
        open_tested = partial(open_engines, engine_bundle)
    check_same_model(reference, tested)
    if reference.spec is not None:
        raise UserError(f"{request.reference}: is quantized", "expected a float bundle", "use `export --float`")
    return partial(open_onnx, reference, provider=request.provider), open_tested, tested


def compare_all(
    reference: Chain,
    tested: Chain,
    images: list[Found],
    truths: dict[Path, Path],
    targets: dict[Path, Path],
    request: CompareRequest,
) -> tuple[dict[str, Any], list[Image.Image], list[View]]:
    """The report, and of each image that could be compared a strip for the overview; its sheet is in `targets`.

    The last are what --html shows.
    """
    report: dict[str, Any] = {
        "reference": reference.label,
        "tested": tested.title,
        "align": request.align,
        "versions": versions(),
        "parts": compare_parts(reference, tested, [image.path for image in images[: request.parts_on]]),
        "images": {},
    }
    sheets, views, options = [], list[View](), Options(align=request.align)
    for image in Bar(images, desc="comparing", unit="image"):
        path = image.path
        try:
            row, pictures = compare_image(reference, tested, read_picture(path).rgb, truths.get(path), options)
        except UserError as error:
            Bar.write(printable(f"error: {error}"), file=sys.stderr)
            continue
        report["images"][image.name] = row
        panels = [(name, pictures[name]) for name in ("LR", "bicubic", "float", tested_name(tested))]
        caption = f"{path.stem}: {row['to_float']['psnr']:.1f} dB, LPIPS {row['to_float']['lpips']:.4f} to float"
        save_image(comparison_sheet(panels, caption), targets[path])
        sheets.append(comparison_sheet(panels, caption, crop=192))
        if request.html:
            del pictures["LR"]
            views = kept([*views, view(image.name, row, pictures)])
    if not sheets:
        raise UserError("no image could be compared", "expected at least one")
    report["mean"] = means(report["images"].values())
    return report, sheets, views


def compare_drawn(
    reference: Chain, tested: Chain, options: Options
) -> tuple[dict[str, Any], list[Image.Image], list[View]]:
    """Figures of each drawn picture and of all, the extreme ones apart, a strip of each, and what --html shows."""
    rows, strips, views = {}, [], []
    for name, drawn in Bar(drawn_set(DRAWN_SIDE).items(), desc="comparing drawn pictures", unit="image"):
        row, pictures = compare_image(reference, tested, drawn, None, options)
        panels = [(label, pictures[label]) for label in ("LR", "float", tested_name(tested))]
        to_float = row["to_float"]
        caption = f"{name}: {to_float['psnr']:.1f} dB, LPIPS {to_float['lpips']:.4f} to float"
        strips.append(comparison_sheet(panels, caption, crop=192))
        del pictures["LR"]
        rows[name] = row
        views.append(view(f"drawn: {name}", row, pictures))
    extreme = [rows[name] for name in EXTREME]
    usual = [row for name, row in rows.items() if name not in EXTREME]
    return {"images": rows, "mean": means(usual), "mean_of_extreme": means(extreme)}, strips, views


def means(rows: Collection[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and worst figures over images, of each comparison that there is."""
    keys = ("to_float", "float_to_truth", "tested_to_truth", "bicubic_to_truth")
    found = {key: [row[key] for row in rows if key in row] for key in keys}
    return {key: summarize(figures) for key, figures in found.items() if figures}


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
    """Every part alone, each fed the float chain's own tensors; and in its place, behind what is under test.

    `snr_in_chain`: dB, of what is under test fed by itself: how far a chain has drifted at each part.
    """
    captured: list[dict[str, np.ndarray]] = []
    drifted: list[dict[str, np.ndarray]] = []
    for rgb in readable(images):
        enlarged = to_array(upscale(rgb, reference.model.upscale))
        sources = chain_sources(rgb, enlarged, reference.parts, seed=0)
        captured.append(reference.tensors(sources))
        drifted.append(tested.tensors(sources))
    if not captured:
        return {}
    return {
        part.name: {
            **compare_part(part, reference, tested, captured),
            "snr_in_chain": snr(part.output.name, captured, drifted),
        }
        for part in Bar(reference.parts, desc="parts", unit="part")
    }


def snr(tensor: str, captured: list[dict[str, np.ndarray]], found: list[dict[str, np.ndarray]]) -> float:
    """Σx² / Σ(x − x̂)² of a tensor in dB, the mean over chains' tensors."""
    values = []
    for expected, given in zip(captured, found, strict=True):
        error = np.square(expected[tensor] - given[tensor], dtype=np.float64).sum()
        values.append(10 * np.log10(np.square(expected[tensor], dtype=np.float64).sum() / max(error, 1e-30)))
    return float(np.mean(values))


def readable(images: Iterable[Path]) -> Iterator[Image.Image]:
    """Pictures one by one, without those that cannot be read: of these comparing them says so."""
    for path in images:
        with suppress(UserError):
            yield read_picture(path).rgb


class PartRunner(BaseRunner):
    """A polygraphy runner around one part of a chain."""

    def __init__(self, chain: Chain, part: PartInfo, name: str) -> None:
        super().__init__(name=name)
        self.chain, self.part = chain, part

    def get_input_metadata_impl(self) -> Any:
        from polygraphy.common import TensorMetadata

        found = TensorMetadata()
        for tensor in self.part.inputs:
            sides = (-1, -1) if tensor.stride else ()
            found = found.add(tensor.name, np.dtype(np.float32), shape=(-1, tensor.channels, *sides))
        return found

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        done = self.chain.run_part(self.part, feed_dict)
        self.inference_time = sum(done.seconds.values())
        return OrderedDict(done.tensors)


def compare_part(
    part: PartInfo, reference: Chain, tested: Chain, captured: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    """polygraphy's cosine similarity, PSNR and SNR (dB) of one part, the mean over captured chains' tensors."""
    runners = [PartRunner(reference, part, "reference"), PartRunner(tested, part, "tested")]
    feeds = [part.feed(tensors) for tensors in captured]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(runners, data_loader=feeds)
        figures = {}
        for name, function in PART_METRICS.items():
            accuracy = Comparator.compare_accuracy(results, compare_func=function())
            iterations = next(iter(accuracy[0].values()))
            values = [
                value for iteration in iterations for value in iteration[part.output.name].metric_values().values()
            ]
            figures[name] = float(np.mean(values))
    return figures


def compare_image(
    reference: Chain, tested: Chain, rgb: Image.Image, truth_path: Path | None, options: Options
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Figures of one image, and its versions by name, of one size."""
    expected, found = (super_resolve(chain, rgb, options) for chain in (reference, tested))
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
    pictures["LR"] = rgb.resize(found.image.size, Image.Resampling.NEAREST)
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
    if "drawn" in report:
        drawn = report["drawn"]
        for text, key in (("drawn pictures", "mean"), (f"of {' and '.join(EXTREME)}", "mean_of_extreme")):
            row = drawn[key]["to_float"]
            print(f"  {text:<22} {row['psnr']:6.2f} ({row['psnr_worst']:5.2f})   {row['ssim']:.4f}   ", end="")
            print(f"{row['lpips']:.4f} ({row['lpips_worst']:.4f})  to float output")
    for kind, shares in report["clipped"].items():
        print(f"  {'clipped, ' + kind:<22} {clipping_line(shares)}")
    print(f"  pictures and comparison.json in {output}")
