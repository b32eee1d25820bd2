"""The families, one explicit list, and the one that a model folder belongs to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from passionsr_trt.engines.bundle.errors import UserError
from passionsr_trt.export.families.stable_diffusion.family import StableDiffusion

if TYPE_CHECKING:  # an option's help is shown without PyTorch
    from passionsr_trt.export.quantize.part import Model


class Family(Protocol):
    """What a family's package gives: `detect` is cheap, `load` checks, folds and proves."""

    name: str
    folder: str

    def detect(self, folder: Path) -> bool: ...
    def load(self, folder: Path) -> Model: ...
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def import_model(self, arguments: argparse.Namespace) -> int: ...


FAMILIES: tuple[Family, ...] = (StableDiffusion(),)


def check_model(folder: Path) -> Family:
    """The family of a model folder; UserError where there is no folder, or none that a family knows."""
    expected = ", or ".join(family.folder for family in FAMILIES)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", f"expected a model folder ({expected})")
    for family in FAMILIES:
        if family.detect(folder):
            return family
    raise UserError(f"{folder}: no model that is known", f"expected {expected}", "make one with `import-model`")


def load_model(folder: Path) -> Model:
    """Read, check, fold, wire, prove; UserError names what is missing, damaged or of another kind."""
    return check_model(folder).load(folder)
