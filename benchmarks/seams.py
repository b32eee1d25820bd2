"""Do tiles show? One picture untiled and in tiles: the seam energy, and a picture of where they meet.

    python benchmarks/seams.py demo/photos/hr/astronaut.png --engines demo/out/engines -o benchmarks/seams.jpg

The picture is scaled so that the result has 1024×1024 pixels, four times the area of a tile. Seam energy: gradient
energy across the tiles' borders over that of the untiled result at the same lines; 1: no seam.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from passionsr_trt.engines.common.arguments import whole
from passionsr_trt.engines.common.writing import check_writable
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.runtime.apps.report_pictures import DIFFERENCE_GAIN, GAP, difference, labelled_row
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.planning import Tiles, tilings
from passionsr_trt.runtime.core.tiling import run_picture, seam_energy
from passionsr_trt.runtime.pictures.images import to_image
from PIL import Image

SIDE, DETAIL = 1024, 128


def panel(result: Image.Image, untiled: Image.Image, tile: int) -> Image.Image:
    """Where the first tile ends, enlarged; below it the whole difference to the untiled result."""
    first, last = tile - DETAIL // 2, tile + DETAIL // 2
    sheet = Image.new("RGB", (2 * DETAIL, 4 * DETAIL + GAP), "white")
    sheet.paste(
        result.crop((first, first, last, last)).resize((2 * DETAIL, 2 * DETAIL), Image.Resampling.NEAREST), (0, 0)
    )
    whole_difference = difference(untiled, result).resize((2 * DETAIL, 2 * DETAIL), Image.Resampling.BOX)
    sheet.paste(whole_difference, (0, 2 * DETAIL + GAP))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--tile", type=whole(128), default=512)
    parser.add_argument("--overlaps", type=whole(0), nargs="+", default=[0, 32, 64, 128])
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .png or .jpg file")
    arguments = parser.parse_args()
    check_writable(arguments.output.parent)
    chain = load_engines(arguments.engines)
    source = read_picture(arguments.image).rgb.resize((SIDE // chain.model.upscale,) * 2, Image.Resampling.BICUBIC)
    enlarged = to_array(upscale(source, chain.model.upscale))
    sources = chain_sources(source, enlarged, chain.parts, seed=0)
    whole_result = chain.run(sources).tensors[chain.output][0]
    untiled = to_image(whole_result)
    panels = [("untiled", panel(untiled, untiled, arguments.tile))]
    square = (arguments.tile, arguments.tile)
    own = next(tilings((SIDE, SIDE), 64, None, chain.parts))
    sides = {part.name: square for part in chain.parts}
    for tiles in [*(Tiles(sides, overlap) for overlap in arguments.overlaps), own]:
        result = run_picture(chain, sources, tiles).tensors[chain.output][0]
        energy = seam_energy(result, whole_result, tiles.sides[chain.parts[-1].name], tiles.overlap)
        decibels = 20 * np.log10(2 / np.sqrt(np.mean(np.square(result - whole_result, dtype=np.float64))))
        label = f"overlap {tiles.overlap:3}" if tiles is not own else f"by itself, {own}"
        print(f"{label}: seam energy {energy:.3f}, {decibels:.1f} dB to untiled")
        if tiles is not own:
            panels.append((f"{label}: {energy:.2f}", panel(to_image(result), untiled, arguments.tile)))
    caption = (
        f"where tiles of {arguments.tile} meet, enlarged twice; below: difference to untiled x{DIFFERENCE_GAIN}"
    )
    labelled_row(panels, caption).save(arguments.output)


if __name__ == "__main__":
    main()
