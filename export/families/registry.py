"""The families, one explicit list, and the one that a model belongs to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.export.families.bidiffsr.family import BiDiffSR
from passionsr_trt.export.families.diffusers_folders import PIPELINE, class_of
from passionsr_trt.export.families.image_network.family import NCNN, ImageNetwork
from passionsr_trt.export.families.resshift.family import ResShift
from passionsr_trt.export.families.stable_diffusion.family import StableDiffusion

if TYPE_CHECKING:  # an option's help is shown without PyTorch
    from passionsr_trt.export.model.part import Model


class Family(Protocol):
    """What a family's package gives: `detect` is cheap, `load` checks, folds and proves."""

    name: str
    folder: str

    def detect(self, path: Path) -> bool: ...
    def load(self, path: Path) -> Model: ...
    def add_arguments(self, parser: argparse._ArgumentGroup) -> None: ...
    def import_model(self, arguments: argparse.Namespace) -> int: ...


FAMILIES: tuple[Family, ...] = (StableDiffusion(), ResShift(), BiDiffSR(), ImageNetwork())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every family's options of `import-model`; UserError where one has a name that is taken."""
    owners = {name: "import-model" for action in parser._actions for name in action.option_strings}
    for family in FAMILIES:
        try:
            family.add_arguments(parser.add_argument_group(family.name))
        except argparse.ArgumentError as error:
            name = str(error).rpartition(" ")[2]
            fact = f"{family.name}: {name} is an option of {owners.get(name, family.name)} already"
            raise UserError(
                fact, "expected a name of its own", "change it in the family's add_arguments"
            ) from None
        for action in parser._actions:
            for name in action.option_strings:
                owners.setdefault(name, family.name)


def importer(arguments: argparse.Namespace) -> Family:
    """Which family `import-model` is meant for: --family's, that of ncnn's files, the first one otherwise."""
    of_ncnn = arguments.base is not None and arguments.base.suffix.lower() == NCNN
    if arguments.weights is not None and not of_ncnn:
        raise UsageError(f"{arguments.weights}: a second file", f"expected one beside ncnn's {NCNN} alone")
    name = arguments.family or (ImageNetwork.name if of_ncnn else FAMILIES[0].name)
    return next(family for family in FAMILIES if family.name == name)


def check_model(path: Path) -> Family:
    """The family of a model folder or file; UserError where there is none, or none that a family knows."""
    expected = ", or ".join(family.folder for family in FAMILIES)
    if not path.exists():
        raise UserError(f"{path}: no such folder or file", f"expected a model ({expected})")
    for family in FAMILIES:
        if family.detect(path):
            return family
    if kind := class_of(path):
        raise UserError(
            f"{path}: is diffusers' {kind}", f"expected {expected}", f"`import-model` makes one of a {PIPELINE}"
        )
    raise UserError(f"{path}: no model that is known", f"expected {expected}", "make one with `import-model`")


def load_model(path: Path) -> Model:
    """Read, check, fold, wire, prove; UserError names what is missing, damaged or of another kind."""
    return check_model(path).load(path)
