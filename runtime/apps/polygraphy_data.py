"""A data loader script for polygraphy: what one part really sees, not random numbers.

    export PASSIONSR_FLOAT=out/onnx/fp32 PASSIONSR_IMAGES=photos PASSIONSR_PART=unet
    polygraphy run out/onnx/fp32/unet.onnx --onnxrt --data-loader-script runtime/apps/polygraphy_data.py \
        --save-outputs unet.json
    python runtime/apps/polygraphy_data.py out/onnx/int8/unet.onnx int8.json    # INT8 as it is written
    polygraphy run out/onnx/fp32/unet.onnx --onnxrt --data-loader-script runtime/apps/polygraphy_data.py \
        --load-outputs int8.json --compare snr
    polygraphy run out/engines/trt/unet.engine --trt --data-loader-script runtime/apps/polygraphy_data.py \
        --load-outputs unet.json --compare snr

`--onnxrt` is no reference for INT8 graphs: it fuses Q/DQ into kernels that saturate on CPUs without VNNI. So this
script runs them itself (engines/graph/reference.py) and keeps what polygraphy's --load-outputs reads.

PASSIONSR_FLOAT: a float ONNX bundle, run under ONNX Runtime as far as the part. PASSIONSR_IMAGES: low-resolution
images, a file or a folder. PASSIONSR_PART: a part's name. PASSIONSR_LIMIT: images, default 2.
PASSIONSR_SIZE: for an engine of one size, the square that the enlargement is mirrored out or cut to, e.g. 512.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import OnnxBundle, part_names
from passionsr_trt.engines.common.arguments import run
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.reference import reference_session
from passionsr_trt.engines.pictures.files import list_images
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.runtime.backends.loading import open_onnx


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """One feed an image: the part's input by name, float32 [1, C, H, W]."""
    part_name = _setting("PASSIONSR_PART")
    bundle = OnnxBundle.load(Path(_setting("PASSIONSR_FLOAT")))
    if part_name not in (names := part_names(bundle.parts)):
        raise UserError(f"PASSIONSR_PART is {part_name!r}", f"expected one of {', '.join(names)}")
    part = bundle.part(part_name)
    side = int(os.environ.get("PASSIONSR_SIZE", "0"))
    chain = open_onnx(bundle)
    for path in list_images([Path(_setting("PASSIONSR_IMAGES"))])[: int(os.environ.get("PASSIONSR_LIMIT", "2"))]:
        rgb = read_picture(path).rgb
        source = to_array(upscale(rgb, bundle.model.upscale))
        if side:
            missing = [(0, max(0, side - length)) for length in source.shape[1:]]
            source = np.pad(source, [(0, 0), *missing], mode="symmetric")[:, :side, :side]
        sources = chain_sources(rgb, source, bundle.parts, seed=0)
        tensors = chain.tensors(sources)
        yield part.feed(tensors)


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UserError(f"{name} is not set", "expected it in the environment", "see the head of this script")
    return value


def save_outputs(graph: Path, output: Path) -> int:
    """Write what the graph makes of the feeds, as `polygraphy run --save-outputs` does."""
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    runner = OnnxrtRunner(lambda: reference_session(graph), name="reference")
    Comparator.run([runner], data_loader=list(load_data())).save(str(output))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="run an ONNX graph as it is written; feeds as the loader's")
    parser.add_argument("graph", type=Path, help="a part's ONNX file, float or INT8")
    parser.add_argument("output", type=Path, help="JSON file for polygraphy's --load-outputs")
    parser.set_defaults(run=lambda arguments: save_outputs(arguments.graph, arguments.output))
    return run(parser, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
