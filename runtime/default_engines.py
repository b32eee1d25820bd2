"""The engines that are taken where none are named."""

from __future__ import annotations

from pathlib import Path

from passionsr_trt.engines.common.errors import UserError


def default_engines() -> Path:
    """Their folder. UserError where there are none."""
    raise UserError("no engines are named", "expected a folder made by `passionsr-trt quantize` or build-engines")
