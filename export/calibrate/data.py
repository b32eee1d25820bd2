"""Calibration images: low-resolution files → the chain's own input, exactly as the runtime prepares it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.engines.bundle.manifest import sha256
from passionsr_trt.engines.bundle.pictures import list_images, pad_to_multiple, read_picture, to_array, upscale
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel
from torch import Tensor

MULTIPLE = 64


def calibration_files(folder: Path, limit: int) -> list[Path]:
    """The first `limit` images of a folder, by name."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", "expected low-resolution calibration images")
    return list_images([folder])[:limit]


def data_digest(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 of each image."""
    return hashlib.sha256("\n".join(sha256(path) for path in files).encode()).hexdigest()


def load_input(path: Path, model: OneStepModel) -> Tensor:
    """One image → bicubic ×upscale, reflect-padded to 64: [1, 3, H, W] float32 in [-1, 1]."""
    enlarged = to_array(upscale(read_picture(path).rgb, model.one_step.upscale))
    return torch.from_numpy(pad_to_multiple(enlarged, MULTIPLE))[None]
