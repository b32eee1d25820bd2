"""How a toy model's folder is known, read, and made from a checkpoint. PyTorch is imported when a model is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.engines.common.errors import UsageError

if TYPE_CHECKING:
    from passionsr_trt.export.model.part import Model

SETTINGS, WEIGHTS = "toy.json", "toy.safetensors"


class ToyDiffusion:
    name = "toy-diffusion"
    folder = f"{SETTINGS}, {WEIGHTS}"

    def detect(self, path: Path) -> bool:
        return (path / SETTINGS).is_file()

    def load(self, path: Path) -> Model:
        from passionsr_trt.export.families.weights import load_checked, model_digest, read_json, read_weights

        from tests.export.toy_family.chain import build
        from tests.export.toy_family.reference import ToyModel

        settings, original = read_json(path / SETTINGS), ToyModel()
        load_checked(original, read_weights(path / WEIGHTS), path / WEIGHTS)
        return build(original, settings["timestep"], settings["sigma"], model_digest(path))

    def add_arguments(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument("--sigma", type=float, default=0.25, help="σ: the noise's weight")

    def import_model(self, arguments: argparse.Namespace) -> int:
        from passionsr_trt.export.families.weights import read_checkpoint
        from safetensors.torch import save_file

        if arguments.base is None:
            raise UsageError("nothing to import", "expected the toy's .pth file")
        check_target(arguments.output, "model")
        with atomic_folder(arguments.output, "model") as folder:
            save_file(read_checkpoint(arguments.base), folder / WEIGHTS)
            (folder / SETTINGS).write_text(json.dumps({"timestep": 500, "sigma": arguments.sigma}))
            self.load(folder)
        return 0
