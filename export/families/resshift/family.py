"""ResShift as a family: how a folder is known, loaded, and made from published checkpoints."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.engines.bundle.records import decode
from passionsr_trt.engines.common.arguments import positive, whole
from passionsr_trt.engines.common.errors import UsageError

if TYPE_CHECKING:
    from passionsr_trt.export.families.resshift.chain import ResShiftModel
    from passionsr_trt.export.model.part import Model

DESCRIPTION = "resshift.json"
WEIGHTS = {"unet": "unet.safetensors", "autoencoder": "autoencoder.safetensors"}


class ResShift:
    """SinSR, TAD-SR, ResShift in one step. PyTorch and diffusers are loaded when a model is."""

    name = "resshift"
    folder = f"{DESCRIPTION}, {', '.join(WEIGHTS.values())}"

    def detect(self, path: Path) -> bool:
        return path.is_dir() and (path / DESCRIPTION).exists()

    def load(self, path: Path) -> Model:
        from passionsr_trt.export.families.resshift.chain import build_model
        from passionsr_trt.export.families.weights import must_run

        model = read_model(path)
        with must_run(f"{path}:", "expected a trained model"):
            return build_model(model)

    def add_arguments(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--unet", type=Path, help="needed: SinSR_v2.pth, or TAD-SR's or ResShift's file")
        parser.add_argument("--autoencoder", type=Path, help="needed: autoencoder_vq_f4.pth")
        parser.add_argument("--kappa", type=positive, default=2.0, help="κ: the noise's weight")
        parser.add_argument(
            "--root-eta",
            type=positive,
            default=0.99,
            help="√η of the one step, the schedule's last; nothing else of a schedule counts in one step",
        )
        parser.add_argument(
            "--steps", type=whole(1), default=15, help="timesteps of the schedule; the last is taken"
        )

    def import_model(self, arguments: argparse.Namespace) -> int:
        """Two checkpoints → a folder of safetensors, proved and read again."""
        from passionsr_trt.export.families.resshift.chain import OneStep
        from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
        from safetensors.torch import save_file

        if arguments.base is not None or arguments.unet is None or arguments.autoencoder is None:
            raise UsageError("import-model --family resshift", "expected --unet and --autoencoder, no other file")
        check_target(arguments.output, "model")
        step = OneStep(arguments.kappa, arguments.root_eta, arguments.steps)
        states = {}
        for kind, read in (("unet", unet_of), ("autoencoder", autoencoder_of)):
            path = getattr(arguments, kind)
            states[kind] = read_state(path, kind)
            read(states[kind], path)
        with atomic_folder(arguments.output, "model") as folder:
            for kind, state in states.items():
                save_file(
                    {key: tensor.contiguous().clone() for key, tensor in state.items()}, folder / WEIGHTS[kind]
                )
            (folder / DESCRIPTION).write_text(json.dumps(asdict(step), indent=1) + "\n", encoding="utf-8")
            del states
            model = self.load(folder)
        sites = sum(len(part.sites()) for part in model.parts)
        print(f"{arguments.output}: ×{model.upscale}, {sites} sites, written and read again")
        return 0


def read_model(folder: Path) -> ResShiftModel:
    """Every file read and checked; UserError names what is missing, damaged or of another kind."""
    from passionsr_trt.export.families.resshift.chain import OneStep, ResShiftModel
    from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
    from passionsr_trt.export.families.weights import folder_digest, read_json

    step = decode(OneStep, read_json(folder / DESCRIPTION), str(folder / DESCRIPTION))
    unet, autoencoder = (folder / name for name in WEIGHTS.values())
    return ResShiftModel(
        folder_digest(folder),
        step,
        unet_of(read_state(unet, "unet"), unet),
        autoencoder_of(read_state(autoencoder, "autoencoder"), autoencoder),
    )
