"""compare on clips: frame by frame against the float model, and how steady what is tested is beside it."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from passionsr_trt.engines.build import versions
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.errors import UsageError, UserError, printable
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.pictures import to_array
from passionsr_trt.runtime.apps.compare import CompareRequest, load_bundles, tested_name
from passionsr_trt.runtime.apps.report_pictures import comparison_sheet
from passionsr_trt.runtime.apps.video.colours import rgb_of
from passionsr_trt.runtime.apps.video.reading import Clip
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.metrics import measure, summarize
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.steadiness import Steadiness
from passionsr_trt.runtime.core.upscaler import Given, super_resolve
from passionsr_trt.runtime.pictures.images import save_image
from PIL import Image


@dataclass(frozen=True)
class FramesWanted:
    """start, end: seconds of each clip, None: its own. frames: so many at most."""

    start: float | None = None
    end: float | None = None
    frames: int = 100


def compare_clips(request: CompareRequest, wanted: FramesWanted) -> int:
    """Figures and a picture of each clip's worst frame into `output`; 0 where every clip could be compared whole.

    UserError below `min_psnr`.
    """
    import skimage.registration  # noqa: F401  # missing: said now, not after the work

    for option, given in (
        ("--ground-truth", request.ground_truth),
        ("--drawn", request.drawn),
        ("--html", request.html),
        ("--sensitivity", request.sensitivity),
    ):
        if given:
            raise UsageError(f"{option} with clips", "expected pictures", "run them apart")
    open_reference, open_tested, _bundle = load_bundles(request)
    check_writable(request.output)
    report: dict[str, Any] = {"align": request.align, "versions": versions(), "clips": {}}
    broken = 0
    with closing(open_reference()) as reference, closing(open_tested()) as tested:
        report |= {"reference": reference.label, "tested": tested.title}
        for path in dict.fromkeys(request.images):
            name = _name(path, report["clips"])
            try:
                with Clip(path, wanted.start, wanted.end) as clip:
                    row, sheet = compare_clip(clip, reference, tested, Options(align=request.align), wanted.frames)
            except UserError as error:
                Bar.write(printable(f"error: {error}"), file=sys.stderr)
                broken += 1
                continue
            for line in [*clip.notes, *clip.broken]:
                Bar.write(printable(f"{path}: {line}"), file=sys.stderr)
            broken += len(clip.broken)
            report["clips"][name] = row
            save_image(sheet, request.output / f"{name}-worst-frame.png")
    if not report["clips"]:
        raise UserError("no clip could be compared", "expected at least one")
    request.output.mkdir(parents=True, exist_ok=True)
    (request.output / "comparison.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for line in lines_of(report):
        print(printable(line))
    print(f"  pictures and comparison.json in {request.output}")
    least = min(row["to_float"]["psnr"] for row in report["clips"].values())
    if request.min_psnr is not None and least < request.min_psnr:
        raise UserError(f"mean PSNR to the float model is {least:.2f} dB", f"expected ≥ {request.min_psnr:.2f}")
    return 1 if broken else 0


def _name(path: Path, taken: dict[str, Any]) -> str:
    """Of a clip in the report: its stem, or its whole name where another has that."""
    return path.stem if path.stem not in taken else path.name


def compare_clip(
    clip: Clip, reference: Chain, tested: Chain, options: Options, most: int
) -> tuple[dict[str, Any], Image.Image]:
    """Figures of a clip, and a sheet of the frame that is furthest off. UserError where no frame can be read."""
    steady, rows, times = Steadiness(), list[dict[str, float]](), list[str]()
    worst: tuple[float, Image.Image] | None = None
    total = most if clip.count is None else min(most, clip.count)
    for frame in Bar(islice(clip.frames(), most), total=total, desc=f"comparing {clip.path.name}", unit="frame"):
        if frame.picture is None or isinstance(frame.picture, Exception):
            clip.broken.append(f"frame {frame.number}: {frame.picture}")
            continue
        expected, found = (super_resolve(chain, frame.picture, options) for chain in (reference, tested))
        row = measure(expected.image, found.image)
        rows.append(row)
        times.append(clip.seconds(frame.pts))
        steady.add(_rgb(frame.picture), rgb_of(expected), rgb_of(found))
        if worst is None or row["psnr"] < worst[0]:
            panels = [("float", expected.image), (tested_name(tested), found.image)]
            worst = row["psnr"], comparison_sheet(panels, f"{times[-1]}: {row['psnr']:.1f} dB to float")
    if worst is None:
        raise UserError(f"{clip.path}: no frame that can be read", "expected one at least")
    frames = [{"time": time, **row} for time, row in zip(times, rows, strict=True)]
    return {"to_float": summarize(rows), **steady.figures(), "frames": frames}, worst[1]


def _rgb(given: Given) -> np.ndarray:
    """float32 [3, H, W] in [0, 1]."""
    array = given if isinstance(given, np.ndarray) else to_array(given)
    return (array + np.float32(1.0)) / np.float32(2.0)


def lines_of(report: dict[str, Any]) -> list[str]:
    """The report on a terminal; codes are of 8 bits."""
    lines = ["", f"{report['tested']} against {report['reference']}, align {report['align']}"]
    for name, row in report["clips"].items():
        close = row["to_float"]
        lines += [
            f"  {name}: {counted(len(row['frames']), 'frame')} (worst)",
            f"    to float output    PSNR {close['psnr']:.2f} dB ({close['psnr_worst']:.2f})   "
            f"SSIM {close['ssim']:.4f}   LPIPS {close['lpips']:.4f} ({close['lpips_worst']:.4f})",
        ]
        if "flicker" in row:
            lines.append(
                f"    flicker            {row['flicker']:.2f} codes ({row['flicker_worst']:.2f}): "
                "how much the difference to float changes from frame to frame"
            )
        if "warped_float" in row:
            cuts = f"; {row['cuts']} cuts left out" if row["cuts"] else ""
            lines.append(
                f"    warped difference  {row['warped_tested']:.2f} codes, float {row['warped_float']:.2f}: "
                f"of a frame to the one before, along the clip's motion{cuts}"
            )
    return lines
