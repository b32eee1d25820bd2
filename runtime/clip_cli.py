"""Options of clips, of the commands that take them."""

from __future__ import annotations

import argparse

from passionsr_trt.engines.common.arguments import moment, whole
from passionsr_trt.runtime.apps.video.options import SEGMENT


def crf(text: str) -> int:
    """An argparse type: an encoder's CRF. Whoever means a photo's quality gives more."""
    try:
        return whole(0, 63)(text)
    except argparse.ArgumentTypeError:
        expected = (
            "expected a clip's CRF, a whole number from 0 to 63; photos are written with JPEG's and WebP's 95"
        )
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: {expected}") from None


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clips")
    add_moments(group)
    group.add_argument(
        "--codec",
        metavar="NAME",
        help="FFmpeg's name of an encoder (default: H.264 up to 4096×2304 pixels of 8 bits, else HEVC; VP9 or AV1 "
        "in .webm)",
    )
    group.add_argument(
        "--quality",
        type=crf,
        metavar="N",
        help="of a clip's encoder: its CRF, 0 to 63, less is better (default: its own)",
    )
    group.add_argument(
        "--pixel-format",
        metavar="NAME",
        help="FFmpeg's name (default: yuv420p, of 10 bits where the clip has more)",
    )
    group.add_argument(
        "--segment",
        type=whole(1),
        default=SEGMENT,
        metavar="FRAMES",
        help="frames that are written together: a killed run loses those of one, and the same command goes on",
    )


def add_moments(group: argparse._ArgumentGroup) -> None:
    """Which piece of a clip."""
    group.add_argument("--start", type=moment, metavar="TIME", help="begin there: seconds, or H:MM:SS.S")
    group.add_argument("--end", type=moment, metavar="TIME", help="end there")
