"""Image networks as a family: a checkpoint itself, or a folder with its weights and what they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from passionsr_trt.engines.bundle.errors import UsageError, UserError
from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target

if TYPE_CHECKING:
    from passionsr_trt.export.quantize.part import Model

DESCRIPTION, WEIGHTS = "network.json", "network.safetensors"
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")


class ImageNetwork:
    """SwinIR, DAT, Real-ESRGAN, SPAN and their like. PyTorch and spandrel are loaded when a model is."""

    name = "image-network"
    folder = f"{DESCRIPTION}, or a network's own .pth or .safetensors file"

    def detect(self, path: Path) -> bool:
        return path.suffix.lower() in CHECKPOINTS if path.is_file() else (path / DESCRIPTION).exists()

    def load(self, path: Path) -> Model:
        from passionsr_trt.export.families.image_network.checkpoints import read_network, recognise, statement
        from passionsr_trt.export.families.image_network.network import build_network
        from passionsr_trt.export.families.weights import model_digest, read_json

        file = path if path.is_file() else path / WEIGHTS
        described = recognise(read_network(file), str(file))
        if path.is_dir():
            stated = read_json(path / DESCRIPTION)
            found = statement(described)
            if stated != found:
                raise UserError(f"{path / DESCRIPTION}: says {stated}", f"expected {found}, as the weights are")
        return build_network(described, model_digest(path), str(file))

    def add_arguments(self, parser: argparse._ArgumentGroup) -> None:
        """None: weights tell everything."""

    def import_model(self, arguments: argparse.Namespace) -> int:
        """A checkpoint → a folder of safetensors, proved and read again."""
        from passionsr_trt.export.families.image_network.checkpoints import read_network, recognise, statement
        from safetensors.torch import save_file

        if arguments.base is None:
            raise UsageError("nothing to import", "expected a network's .pth or .safetensors file")
        check_target(arguments.output, "model")
        weights = read_network(arguments.base)
        stated = statement(recognise(weights, str(arguments.base)))
        with atomic_folder(arguments.output, "model") as folder:
            own = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
            save_file(own, folder / WEIGHTS)
            (folder / DESCRIPTION).write_text(json.dumps(stated, indent=1) + "\n")
            model = self.load(folder)
        sites = len(model.parts[0].sites())
        kind = f"{stated['architecture']} ×{stated['scale']}"
        print(
            f"{arguments.output}: {kind}, {sites} sites, written and read again; "
            f"next: passionsr-trt calibrate {arguments.output} --images …"
        )
        return 0
