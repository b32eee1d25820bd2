"""ResShift as a family: how a folder is known, loaded, and made from published checkpoints.

`resshift.json` holds the sampler: OneStep's fields, or those of Steps, which has `min_noise` (sampler.py).
"""

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
from passionsr_trt.export.families.resshift.sampler import MOST_STEPS, RELEASED, OneStep, Sampler, Steps

if TYPE_CHECKING:
    from passionsr_trt.export.families.resshift.chain import ResShiftModel
    from passionsr_trt.export.model.part import Model

DESCRIPTION = "resshift.json"
WEIGHTS = {"unet": "unet.safetensors", "autoencoder": "autoencoder.safetensors"}


class ResShift:
    """SinSR, TAD-SR; ResShift in one step or its own. PyTorch and diffusers are loaded when a model is."""

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
        parser.add_argument(
            "--unet",
            type=Path,
            help="needed: SinSR_v2.pth, or TAD-SR's or ResShift's file; of bidiffsr its one file",
        )
        parser.add_argument("--autoencoder", type=Path, help="needed: autoencoder_vq_f4.pth")
        parser.add_argument("--kappa", type=positive, default=2.0, help="κ: the noise's weight")
        parser.add_argument(
            "--steps",
            type=whole(1, MOST_STEPS),
            help="1: SinSR, TAD-SR; ResShift's own: 15 (realsrx4 v1, v2), 4 (v3 and the later ones) (default: 1; "
            "of bidiffsr 50 steps of DDIM)",
        )
        parser.add_argument(
            "--timesteps",
            type=whole(1),
            default=15,
            help="of the schedule of a model of one step, which is its last",
        )
        parser.add_argument("--etas-end", type=positive, default=0.99, help="√η of the schedule's last timestep")
        released = ", ".join(f"{noise} for {steps} steps" for steps, noise in RELEASED.items())
        parser.add_argument(
            "--min-noise", type=positive, help=f"of several steps: the schedule's first (default: {released})"
        )
        parser.add_argument(
            "--power", type=positive, default=0.3, help="of several steps: the schedule's exponent"
        )

    def import_model(self, arguments: argparse.Namespace) -> int:
        """Two checkpoints → a folder of safetensors, proved and read again."""
        from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
        from safetensors.torch import save_file

        if arguments.base is not None or arguments.unet is None or arguments.autoencoder is None:
            raise UsageError("import-model --family resshift", "expected --unet and --autoencoder, no other file")
        check_target(arguments.output, "model")
        sampler = sampler_of(arguments)
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
            (folder / DESCRIPTION).write_text(json.dumps(asdict(sampler), indent=1) + "\n", encoding="utf-8")
            del states
            model = self.load(folder)
        sites = sum(len(part.sites()) for part in model.parts)
        steps = f"{arguments.steps} steps, " if isinstance(sampler, Steps) else ""
        print(f"{arguments.output}: ×{model.upscale}, {steps}{sites} sites, written and read again")
        return 0


def sampler_of(arguments: argparse.Namespace) -> Sampler:
    """What import-model was asked for; UsageError where a schedule's first value is not known."""
    steps, min_noise = arguments.steps or 1, arguments.min_noise
    if steps == 1:
        if min_noise is not None:
            raise UsageError("--min-noise: one step does not ask for it", "expected --steps 15 or 4 beside it")
        return OneStep(arguments.kappa, arguments.etas_end, arguments.timesteps)
    if min_noise is None and steps not in RELEASED:
        known = " or ".join(map(str, RELEASED))
        raise UsageError(
            f"--steps {steps}: no released model has so many", f"expected {known}, or --min-noise too"
        )
    min_noise = RELEASED[steps] if min_noise is None else min_noise
    return Steps(arguments.kappa, min_noise, arguments.etas_end, arguments.power, steps)


def read_model(folder: Path) -> ResShiftModel:
    """Every file read and checked; UserError names what is missing, damaged or of another kind."""
    from passionsr_trt.export.families.resshift.chain import ResShiftModel
    from passionsr_trt.export.families.resshift.checkpoints import autoencoder_of, read_state, unet_of
    from passionsr_trt.export.families.weights import folder_digest, read_json

    content = read_json(folder / DESCRIPTION)
    kind: type[Sampler] = Steps if isinstance(content, dict) and "min_noise" in content else OneStep
    sampler = decode(kind, content, str(folder / DESCRIPTION))
    unet, autoencoder = (folder / name for name in WEIGHTS.values())
    return ResShiftModel(
        folder_digest(folder),
        sampler,
        unet_of(read_state(unet, "unet"), unet),
        autoencoder_of(read_state(autoencoder, "autoencoder"), autoencoder),
    )
