"""Calibration images: low-resolution files → the chain's own input, exactly as the runtime prepares it."""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import Wired, chain_grid, chain_multiple, picture_size, sources_of
from passionsr_trt.engines.common.bar import Bar
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.engines.pictures.pictures import chain_sources, read_picture, to_array, upscale
from passionsr_trt.engines.pictures.synthetic import synthetic_pictures
from passionsr_trt.export.model.part import Model, Tensors
from PIL import Image
from torch import Tensor, nn


def calibration_files(folder: Path, limit: int, quiet: bool = False) -> list[Path]:
    """The first `limit` pictures of a folder and its sub-folders that can be read, by name.

    One that cannot is said, and the next takes its place. So is what is left out, and pictures of one colour,
    which tell nothing of ranges; `quiet` leaves that to another process. UserError where none can be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "expected low-resolution calibration images")
    found, left = find_pictures([folder])
    files: list[Path] = []
    said = [left.line(), *left.folders]
    plain: list[Path] = []
    for picture in found:
        try:
            rgb = read_picture(picture.path).rgb
        except UserError as error:
            said.append(f"left out: {error}")
            continue
        files.append(picture.path)
        if rgb.getcolors(1) is not None:
            plain.append(picture.path)
        if len(files) == limit:
            break
    if plain:
        share = f"{len(plain)} of {len(files)} pictures are of one colour ({plain[0]})"
        said.append(f"warning: {share}: ranges come from what is in a picture; take photos like those to enlarge")
    for line in [] if quiet else said:
        if line:
            Bar.write(printable(line), file=sys.stderr)
    if not files:
        raise UserError(f"{folder}: none of its {len(found)} pictures can be read", "expected at least one")
    return files


def data_digest(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 of each image."""
    return hashlib.sha256("\n".join(sha256(path) for path in files).encode()).hexdigest()


def load_sources(path: Path, model: Model) -> dict[str, Tensor]:
    """One image → the chain's sources; noise is seeded by the file's bytes."""
    seed = zlib.crc32(path.read_bytes()) if model.draws_noise else 0
    return sources_of_picture(read_picture(path).rgb, model, seed)


def sources_of_picture(rgb: Image.Image, model: Model, noise_seed: int) -> dict[str, Tensor]:
    """The chain's sources [1, C, H, W] float32, as the runtime prepares them.

    Noise is seeded for models that draw it, else 0, its mean.
    """
    enlarged = to_array(upscale(rgb, model.upscale))
    made = chain_sources(rgb, enlarged, model.parts, noise_seed if model.draws_noise else None)
    return {name: torch.from_numpy(array[0])[None] for name, array in made.items()}


def drawn_sources(files: Sequence[Path], model: Model, spec: QuantSpec, side: int) -> list[dict[str, Tensor]]:
    """Sources of what `spec.synthetic` asks for beside the files, of about side × side output pixels each."""
    count = round(len(files) * spec.synthetic / (1 - spec.synthetic))
    if not count or not spec.drawn_weight:
        return []
    own = [read_picture(path).rgb for path in files]
    drawn = synthetic_pictures(count, -(-crop_side(model.parts, side) // model.upscale), spec.seed, own)
    return [sources_of_picture(picture, model, index) for index, picture in enumerate(drawn)]


def crops(images: Sequence[Tensors], model: Model, seed: int, crop: int, each: int = 1) -> list[dict[str, Tensor]]:
    """Seeded crops of about crop×crop output pixels, on positions that every tensor has; each: of every image, one
    of each image after the other."""
    crop = crop_side(model.parts, crop)
    generator = torch.Generator().manual_seed(seed)
    step = chain_grid(model.parts)
    sources = sources_of(model.parts)
    result = []
    for image in [*images] * each:
        size = picture_size(sources.values(), {name: x.shape for name, x in image.items()})
        limits = [max(0, side - crop) // step for side in size]
        corner = [step * int(torch.randint(0, limit + 1, (), generator=generator)) for limit in limits]
        result.append({name: window(x, sources[name].stride, corner, crop) for name, x in image.items()})
    return result


def pools_positions(model: Model) -> bool:
    """Does a part norm or pool over all positions? Then what it does hangs on how large a crop is."""
    kinds = (nn.GroupNorm, nn.InstanceNorm2d, nn.AdaptiveAvgPool2d)
    return any(isinstance(module, kinds) for part in model.parts for module in part.module.modules())


def crop_side(parts: Sequence[Wired], wanted: int) -> int:
    """The side nearest below `wanted` output pixels that the parts take, or their least."""
    multiple = chain_multiple(parts)
    return max(wanted // multiple, 1) * multiple


def window(x: Tensor, stride: int, corner: Sequence[int], side: int) -> Tensor:
    """A square of x [B, C, H, W], in output pixels, or what is there of it; a row as it is."""
    if not stride:
        return x
    top, left = (start // stride for start in corner)
    return x[:, :, top : top + side // stride, left : left + side // stride].contiguous()
