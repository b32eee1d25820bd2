"""Built engines against the bundle that they were built from, before anybody uses them.

Two pictures, one like a photo and one like a screen (engines/pictures/drawn.py), go through the bundle in ONNX
Runtime.

1. Site by site (site_proof.py): a wrong kernel hides behind the sums that follow it.
2. Part by part: the whole engine takes the bundle's tensors. Codes that fell the other way at a tie go on through
   a part, so the bound is three times what a change of 1e-3 in its input does to the bundle, or `PART`.
3. As pictures: PSNR of the chain to the bundle's, which is printed, against a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.targets import OpenVINOTarget
from passionsr_trt.engines.bundle.wiring import Size, reference_size, sources_of
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.openvino.half_range import within_limit
from passionsr_trt.engines.openvino.model import compile_static, runs_in_bfloat16
from passionsr_trt.engines.openvino.site_proof import Tensors, distance, prove_sites, wrong
from passionsr_trt.engines.pictures.drawn import photo_like, screen_like
from passionsr_trt.engines.pictures.pictures import noise
from PIL import Image

PICTURES = {"a picture like a photo": photo_like, "a picture like a screen": screen_like}
PROOF_SIZE = 128  # output pixels a side
PART = {"float": 1e-4, "float32": 0.1, "bfloat16": 0.15}  # relative error
FLOOR = 35.0  # dB, or `MARGIN` below what a change of 1e-3 leaves
MARGIN = 6.0


def prove_engines(bundle: OnnxBundle, folder: Path, target: OpenVINOTarget) -> dict[str, float]:
    """Relative error of each part's engine in `folder` to the bundle, the larger one of two pictures.

    UserError names the first site, part or picture that is wrong. Engines whose codes were brought within a limit
    are judged by the bundle so changed; what the limit costs is printed.
    """
    limit = target.weight_code_limit
    exact = {picture: proof_sources(bundle, draw) for picture, draw in PICTURES.items()}
    near = {picture: nearly(tensors) for picture, tensors in exact.items()}
    built, whole = ({picture: dict(tensors) for picture, tensors in exact.items()} for _ in range(2))
    errors: dict[str, float] = {}
    for part in bundle.parts:
        path, result = bundle.open(part), part.output.name
        with within_limit(path, limit) as judge:
            feeds = {picture: part.feed(tensors) for picture, tensors in exact.items()}
            outputs = prove_sites(part, folder / part.file, judge, feeds)
            session = reference_session(judge)
        shapes = part.shapes(bundle.model.size or reference_size(bundle.parts, PROOF_SIZE))
        compiled = compile_static(folder / part.file, shapes, bfloat16=runs_in_bfloat16(part, target))
        for picture, feed in feeds.items():
            expected = exact[picture][result] = outputs[picture]
            error, bound = distance(compiled(feed)[0], expected), PART["float"]
            built[picture][result] = compiled(part.feed(built[picture]))[0]
            near[picture][result] = session.run(None, part.feed(near[picture]))[0]
            if bundle.spec is not None:
                drift = distance(session.run(None, nearly(feed))[0], expected)
                bound = max(PART["bfloat16" if target.bfloat16 else "float32"], 3 * drift)
            if not error <= bound:
                raise wrong(
                    f"{part.name} is off by {error:.1e} for {picture}", f"≤ {bound:.1e} from ONNX Runtime's result"
                )
            errors[part.name] = max(error, errors.get(part.name, 0.0))
        if limit is not None:
            session = reference_session(path)
            for tensors in whole.values():
                tensors[result] = session.run(None, part.feed(tensors))[0]
    for picture, tensors in exact.items():
        expected = tensors[result]
        found = psnr(built[picture][result], expected)
        floor = min(FLOOR, psnr(near[picture][result], expected) - MARGIN)
        print(f"{picture}: {found:.1f} dB from the engines to their ONNX bundle")
        if not found >= floor:
            raise wrong(f"{picture} is {found:.1f} dB from the bundle's", f"≥ {floor:.1f} dB")
        if limit is not None:
            print(
                f"this CPU's INT8 kernels saturate (no VNNI): weight codes brought within ±{limit}, "
                f"{psnr(expected, whole[picture][result]):.1f} dB to the bundle's own result; "
                f'the other way is a calibration with "weight_code_limit": {limit} in the spec'
            )
    return errors


def nearly(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """A thousandth more: how far that takes the bundle from itself shows how far right executors drift apart."""
    return {name: x * np.float32(1 + 1e-3) for name, x in tensors.items()}


def proof_sources(bundle: OnnxBundle, draw: Callable[[Size], Image.Image]) -> Tensors:
    """The chain's sources of a drawn picture in [-1, 1], for 128×128 output pixels or what the bundle takes."""
    size = bundle.model.size or reference_size(bundle.parts, PROOF_SIZE)
    sources = sources_of(bundle.parts)
    coarsest = max(tensor.stride for tensor in sources.values() if tensor.name != "noise")
    picture, found = draw((size[0] // coarsest, size[1] // coarsest)), {}
    for tensor in sources.values():
        _batch, channels, height, width = tensor.at(size)
        if tensor.name == "noise":
            found[tensor.name] = noise(0, tensor.at(size))
        else:
            own = picture.resize((width, height), Image.Resampling.BICUBIC)
            found[tensor.name] = np.asarray(own, np.float32).transpose(2, 0, 1)[None, :channels] / 127.5 - 1.0
    return found


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """In dB, of pictures in [-1, 1] (peak 2), clamped."""
    difference = np.clip(found, -1, 1) - np.clip(expected, -1, 1)
    return float(10 * np.log10(4.0 / max(float(np.mean(difference**2)), 1e-12)))
