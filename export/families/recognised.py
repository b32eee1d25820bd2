"""What `import-model` was given, where it is not what the family reads: its kind, and what takes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.kinds import Kind, kind_of, quoted
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.diffusers_folders import class_of

if TYPE_CHECKING:
    from passionsr_trt.export.families.registry import Family

NEXT = {  # kind → what takes it
    "onnx-bundle": "`passionsr-trt build-engines {0} -o …` goes on with it",
    "engine-bundle": "`passionsr-trt infer PICTURES -o … --engines {0}` runs them",
    "calibration": "`passionsr-trt export MODEL --calibration {0} -o …` takes it",
}
ORIGINAL = "model.diffusion_model."  # how names begin in Stable Diffusion's own layout
SHIFTED = "middle_block.0.in_layers.2.weight"  # of ResShift's UNet, whatever its prefix
BINARY = ".binary_conv.weight"  # of BI-DiffSR's UNet
CODES = "quantize.embedding.weight"  # of a VQ autoencoder


def check_base(base: Path | None, family: Family, families: Iterable[Family]) -> None:
    """UserError where a base is missing, or is known to be something else than the family imports."""
    if base is None:
        return
    if not base.exists():
        raise UserError(
            f"{base}: not there",
            "expected a diffusers folder, a checkpoint, or OWNER/NAME of the hub",
        )
    if base.is_dir():
        _check_folder(base, family, families)
    elif family.name == "stable-diffusion":
        _check_file(base)


def _check_folder(base: Path, family: Family, families: Iterable[Family]) -> None:
    kind = kind_of(base)
    if kind is not None and kind.name in NEXT:
        raise UserError(f"{base}: holds {kind}", "expected a model", NEXT[kind.name].format(quoted(base)))
    owner = next((other for other in families if other.detect(base)), None)
    if owner is not None and owner.name != family.name:
        ready = f"`passionsr-trt calibrate {quoted(base)} --images …`"
        raise UserError(f"{base}: is a model folder of {owner.name} already", "expected other files", ready)
    named = class_of(base)
    if family.name == "stable-diffusion" and not (base / "unet").exists():
        what = f"is diffusers' {named}" if named else _nothing(base, kind)
        raise UserError(f"{base}: {what}", "expected a diffusers folder with unet/, vae/ and scheduler/")
    if family.name == "image-network":
        way = "leave --family out" if named else "give the file itself"
        what = f"is diffusers' {named}" if named else "is a folder"
        raise UserError(f"{base}: {what}", "expected a network's own file", way)


def _nothing(base: Path, kind: Kind | None) -> str:
    held = "" if kind is None or kind.name != "model" else ", though weights lie in it"
    return f"holds no unet/{held}" if any(base.iterdir()) else "is empty"


def _check_file(base: Path) -> None:
    """Of one file that is to be Stable Diffusion."""
    from passionsr_trt.export.families.contents import PICKLE, SAFETENSORS, content_of
    from passionsr_trt.export.families.weights import tensor_names

    what, fix = content_of(base) if base.is_file() else ("", "")
    if what and what not in (PICKLE, SAFETENSORS):
        raise UserError(f"{base}: is {what} by its content", "expected a checkpoint of weights", fix)
    names = tensor_names(base)
    if any(name.startswith(ORIGINAL) for name in names):
        return
    if any(".lora_A." in name for name in names):
        raise UserError(
            f"{base}: is a LoRA",
            "expected the base that it changes",
            f"import-model BASE --lora {quoted(base)} -o …",
        )
    if any(name.endswith((SHIFTED, CODES)) for name in names):
        raise UserError(
            f"{base}: is ResShift's UNet or a VQ autoencoder",
            "expected both",
            "import-model --family resshift --unet FILE --autoencoder FILE",
        )
    if any(name.endswith(BINARY) for name in names):
        raise UserError(
            f"{base}: is BI-DiffSR's UNet",
            "it has a family of its own",
            "import-model --family bidiffsr --unet FILE",
        )
    if names and (network := _network(base)):
        raise UserError(
            f"{base}: is an image network ({network})",
            "it needs no import",
            f"start with `passionsr-trt calibrate {quoted(base)} --images …`",
        )


def _network(path: Path) -> str:
    """`Compact ×4`; empty where spandrel does not know it, or is not there."""
    from passionsr_trt.export.families.image_network.checkpoints import read_network, recognise, statement

    try:
        stated = statement(recognise(read_network(path), str(path)))
    except UserError:
        return ""
    return f"{stated['architecture']} ×{stated['scale']}"
