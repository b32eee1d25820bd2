"""Calibration images: low-resolution files → the chain's own input, exactly as the runtime prepares it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from passionsr_trt.engines.errors import UserError
from passionsr_trt.engines.manifest import sha256
from passionsr_trt.export.model import OneStepModel
from PIL import Image
from torch import Tensor

MULTIPLE = 64


def calibration_files(folder: Path, limit: int) -> list[Path]:
    """The first `limit` images of a folder, by name."""
    suffixes = (".png", ".jpg", ".jpeg", ".webp")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "expected low-resolution calibration images")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)[:limit]
    if not files:
        raise UserError(f"{folder}: holds no image", "expected low-resolution calibration images")
    return files


def data_digest(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 of each image."""
    return hashlib.sha256("\n".join(sha256(path) for path in files).encode()).hexdigest()


def load_input(path: Path, model: OneStepModel) -> Tensor:
    """One image → bicubic ×upscale, reflect-padded to 64: [1, 3, H, W] float32 in [-1, 1]."""
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({error})", "expected an image") from None
    factor = model.one_step.upscale
    rgb = rgb.resize((rgb.width * factor, rgb.height * factor), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).reshape(rgb.height, rgb.width, 3)
    tensor = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
    pad = (0, -tensor.shape[3] % MULTIPLE, 0, -tensor.shape[2] % MULTIPLE)
    return torch.nn.functional.pad(tensor, pad, mode="reflect") if any(pad) else tensor
