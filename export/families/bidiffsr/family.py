"""BI-DiffSR as a family: how a folder is known, loaded, and made from a published checkpoint.

`bidiffsr.json` holds what is not in the weights: Settings.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.engines.bundle.records import decode
from passionsr_trt.engines.common.arguments import whole
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.export.families.bidiffsr.sampler import Ddim

if TYPE_CHECKING:
    from passionsr_trt.export.families.bidiffsr.chain import BinaryModel
    from passionsr_trt.export.model.part import Model

DESCRIPTION, WEIGHTS = "bidiffsr.json", "unet.safetensors"
STEPS, UPSCALE, NORM_GROUPS = 50, 4, 16  # the authors' test, the release
UPSCALES = (2, 3, 4, 8)


@dataclass(frozen=True)
class Settings:
    """What the file of weights does not say. norm_groups: of every norm of the UNet."""

    upscale: int
    norm_groups: int
    sampler: Ddim

    def __post_init__(self) -> None:
        if self.upscale not in UPSCALES:
            raise UserError(f"bidiffsr: upscale is {self.upscale!r}", f"expected one of {UPSCALES}")
        if not 1 <= self.norm_groups <= 1 << 10:
            raise UserError(f"bidiffsr: norm_groups is {self.norm_groups!r}", "expected a whole number from 1 on")


class BiDiffSR:
    """BI-DiffSR. PyTorch is loaded when a model is."""

    name = "bidiffsr"
    folder = f"{DESCRIPTION}, {WEIGHTS}"

    def detect(self, path: Path) -> bool:
        return path.is_dir() and (path / DESCRIPTION).exists()

    def load(self, path: Path) -> Model:
        from passionsr_trt.export.families.bidiffsr.chain import build_model
        from passionsr_trt.export.families.weights import must_run

        model = read_model(path)
        with must_run(f"{path}:", "expected a trained model"):
            return build_model(model)

    def add_arguments(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(
            "--scale",
            type=int,
            choices=UPSCALES,
            default=UPSCALE,
            help="how many times larger it was trained to make",
        )
        parser.add_argument(
            "--norm-groups", type=whole(1), default=NORM_GROUPS, help="of its norms, as its configuration says"
        )

    def import_model(self, arguments: argparse.Namespace) -> int:
        """A checkpoint → a folder of safetensors, proved and read again."""
        from passionsr_trt.export.families.bidiffsr.checkpoints import read_state, unet_of
        from safetensors.torch import save_file

        if arguments.base is not None or arguments.autoencoder is not None or arguments.unet is None:
            raise UsageError("import-model --family bidiffsr", "expected --unet, no other file")
        check_target(arguments.output, "model")
        steps = STEPS if arguments.steps is None else arguments.steps
        settings = Settings(arguments.scale, arguments.norm_groups, Ddim(steps))
        state = read_state(arguments.unet)
        unet_of(state, settings.norm_groups, settings.sampler.timesteps, arguments.unet)
        with atomic_folder(arguments.output, "model") as folder:
            save_file({key: x.contiguous().clone() for key, x in state.items()}, folder / WEIGHTS)
            (folder / DESCRIPTION).write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
            del state
            model = self.load(folder)
        sites = sum(len(part.sites()) for part in model.parts)
        print(f"{arguments.output}: ×{model.upscale}, {steps} steps, {sites} sites, written and read again")
        return 0


def read_model(folder: Path) -> BinaryModel:
    """Every file read and checked; UserError names what is missing, damaged or of another kind."""
    from passionsr_trt.export.families.bidiffsr.chain import BinaryModel
    from passionsr_trt.export.families.bidiffsr.checkpoints import read_state, unet_of
    from passionsr_trt.export.families.weights import folder_digest, read_json

    settings = decode(Settings, read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))
    path, sampler = folder / WEIGHTS, settings.sampler
    unet = unet_of(read_state(path), settings.norm_groups, sampler.timesteps, path)
    return BinaryModel(folder_digest(folder), settings.upscale, sampler, unet)
