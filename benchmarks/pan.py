"""A clip for measurements: a window that glides over a photo, a pixel and a half a frame, without loss.

python benchmarks/pan.py demo/photos/hr/cat.png --size 480x640 --frames 48 -o out/pan.mkv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
from passionsr_trt.engines.common.arguments import parse_size, whole
from passionsr_trt.engines.pictures.pictures import read_picture
from PIL import Image

STEP = (0.9, 1.2)  # pixels down and to the right, a frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument(
        "--size", type=parse_size, default=(480, 640), metavar="HxW", help="of a frame, even sides"
    )
    parser.add_argument("--frames", type=whole(1), default=48)
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .mkv, lossless (FFV1)")
    arguments = parser.parse_args()
    height, width = arguments.size
    moved = [arguments.frames * step for step in STEP]
    photo = read_picture(arguments.photo).rgb
    scale = max((height + moved[0]) / photo.height, (width + moved[1]) / photo.width, 1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(arguments.output), "w") as file:
        stream = file.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(arguments.frames):
            top, left = (number * step for step in STEP)
            window = tuple(place / scale for place in (left, top, left + width, top + height))
            picture = photo.resize((width, height), Image.Resampling.BICUBIC, box=window)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    main()
