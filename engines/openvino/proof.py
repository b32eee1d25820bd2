"""Built engines against the bundle that they were built from, before anybody uses them.

Two pictures, one like a photo and one like a screen (engines/pictures/drawn.py), go through the bundle in ONNX
Runtime.

1. Site by site (site_proof.py): a wrong kernel hides behind the sums that follow it.
2. Part by part: the whole engine takes the bundle's tensors. Codes that fell the other way at a tie go on through
   a part, so the bound is three times what a change of 1e-3 in its input does to the bundle, or `PART`. In a
   float graph that takes signs a sum near 0 falls the other way in another order of summing: there it is three
   times what noise of 1e-5 in its input does.
3. As pictures: PSNR of the chain to the bundle's, which is printed, against a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, is_noise, reference_size, sources_of
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino.compile import compile_static, runs_in_bfloat16
from passionsr_trt.engines.openvino.half_range import within_limit
from passionsr_trt.engines.openvino.site_proof import Tensors, distance, prove_sites, wrong
from passionsr_trt.engines.pictures.drawn import photo_like, screen_like
from passionsr_trt.engines.pictures.pictures import noise
from PIL import Image

PICTURES = {"a picture like a photo": photo_like, "a picture like a screen": screen_like}
PROOF_SIZE = 128  # output pixels a side
PART = {"float": 1e-4, "float32": 0.1, "bfloat16": 0.15}  # relative error
SLIGHT = 1e-5  # a hundred times what float32 rounds
FLOOR = 35.0  # dB, or `MARGIN` below what a change of 1e-3 leaves
MARGIN = 6.0


def prove_engines(bundle: OnnxBundle, folder: Path, target: OpenVINOTarget) -> dict[str, float]:
    """Relative error of each part's engine in `folder` to the bundle, the larger one of two pictures.

    UserError names the first site, part or picture that is wrong. Engines whose codes were brought within a limit
    are judged by the bundle so changed; what the limit costs is printed.
    """
    runs = [Run(picture, proof_sources(bundle, draw)) for picture, draw in PICTURES.items()]
    with np.errstate(all="ignore"):  # what is infinite is wrong, and said to be
        errors = {part.name: _prove_part(bundle, part, folder, target, runs) for part in bundle.parts}
        for run in runs:
            _prove_picture(run, bundle.parts[-1].output.name, target.weight_code_limit)
    return errors


class Run:
    """One picture's tensors through the chain, by who computes them.

    exact: the bundle, its codes within the engines' limit; near: the same from sources that are 1e-3 larger;
    built: the engines; unlimited: the bundle as it is.
    """

    def __init__(self, picture: str, sources: Tensors) -> None:
        self.picture, self.exact, self.near = picture, dict(sources), nearly(sources)
        self.built, self.unlimited = dict(sources), dict(sources)


def _prove_part(
    bundle: OnnxBundle, part: PartInfo, folder: Path, target: OpenVINOTarget, runs: Sequence[Run]
) -> float:
    """The larger relative error of one engine; its output is added to the tensors of every run."""
    path, result, limit, errors = bundle.open(part), part.output.name, target.weight_code_limit, []
    with within_limit(path, limit) as judge:
        outputs = prove_sites(part, folder / part.file, judge, {run.picture: part.feed(run.exact) for run in runs})
        session = reference_session(judge)
    shapes = part.shapes(bundle.model.size or reference_size(bundle.parts, PROOF_SIZE))
    compiled = compile_static(folder / part.file, shapes, bfloat16=runs_in_bfloat16(part, target))
    for run in runs:
        feed, expected = part.feed(run.exact), outputs[run.picture]
        error = distance(compiled(feed)[0], expected)
        run.exact[result] = expected
        run.built[result] = compiled(part.feed(run.built))[0]
        run.near[result] = session.run(None, part.feed(run.near))[0]
        if bundle.spec is None:
            bound = float_bound(judge, session, feed, expected)
        else:
            drift = distance(session.run(None, nearly(feed))[0], expected)
            bound = max(PART["bfloat16" if target.bfloat16 else "float32"], 3 * drift)
        if not error <= bound:
            raise wrong(
                f"{part.name} is off by {error:.1e} for {run.picture}", f"≤ {bound:.1e} from ONNX Runtime's result"
            )
        errors.append(error)
    if limit is not None:
        session = reference_session(path)
        for run in runs:
            run.unlimited[result] = session.run(None, part.feed(run.unlimited))[0]
    return max(errors)


def _prove_picture(run: Run, result: str, limit: int | None) -> None:
    """UserError where the engines' picture is too far from the bundle's."""
    expected = run.exact[result]
    decibels = psnr(run.built[result], expected)
    floor = min(FLOOR, psnr(run.near[result], expected) - MARGIN)
    print(f"{run.picture}: {decibels:.1f} dB from the engines to their ONNX bundle")
    if not decibels >= floor:
        raise wrong(f"{run.picture} is {decibels:.1f} dB from the bundle's", f"≥ {floor:.1f} dB")
    if limit is not None:
        print(
            f"this CPU's INT8 kernels saturate (no VNNI): weight codes brought within ±{limit}, "
            f"{psnr(expected, run.unlimited[result]):.1f} dB to the bundle's own result; "
            f'the other way is a calibration with "weight_code_limit": {limit} in the spec'
        )


def float_bound(path: Path, session: Any, feed: Tensors, expected: np.ndarray) -> float:
    """What the relative error of a float graph may be."""
    if not any(node.op_type == "Sign" for node in onnx.load(str(path), load_external_data=False).graph.node):
        return PART["float"]
    generator = np.random.default_rng(0)
    noisy = {
        name: (x * (1 + SLIGHT * generator.standard_normal(x.shape))).astype(np.float32)
        for name, x in feed.items()
    }
    return max(PART["float"], 3 * distance(session.run(None, noisy)[0], expected))


def nearly(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """A thousandth more: how far that takes the bundle from itself shows how far right executors drift apart."""
    return {name: x * np.float32(1 + 1e-3) for name, x in tensors.items()}


def proof_sources(bundle: OnnxBundle, draw: Callable[[Size], Image.Image]) -> Tensors:
    """The chain's sources of a drawn picture in [-1, 1], for 128×128 output pixels or what the bundle takes."""
    size = bundle.model.size or reference_size(bundle.parts, PROOF_SIZE)
    sources = sources_of(bundle.parts)
    coarsest = max(tensor.stride for tensor in sources.values() if not is_noise(tensor.name))
    picture, made = draw((size[0] // coarsest, size[1] // coarsest)), {}
    for tensor in sources.values():
        _batch, channels, height, width = tensor.at(size)
        if is_noise(tensor.name):
            made[tensor.name] = noise(0, tensor.at(size), tensor.name)
        else:
            resized = picture.resize((width, height), Image.Resampling.BICUBIC)
            made[tensor.name] = np.asarray(resized, np.float32).transpose(2, 0, 1)[None, :channels] / 127.5 - 1.0
    return made


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """In dB, of pictures in [-1, 1] (peak 2), clamped."""
    difference = np.clip(found, -1, 1) - np.clip(expected, -1, 1)
    return float(10 * np.log10(4.0 / max(float(np.mean(difference**2)), 1e-12)))
