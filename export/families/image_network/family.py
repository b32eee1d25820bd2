"""Image networks as a family: a checkpoint itself, or a folder with its weights and what they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passionsr_trt.engines.bundle.manifest import atomic_folder, check_target
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.common.writing import check_writable

if TYPE_CHECKING:
    from passionsr_trt.export.model.part import Model
    from torch import Tensor

DESCRIPTION, WEIGHTS = "network.json", "network.safetensors"
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
SINGLE = ".safetensors"  # what an output's name ends in where it is to be one file
NCNN = ".param"  # its weights lie in a .bin


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

    def hub_files(self, names: Sequence[str], _arguments: argparse.Namespace) -> list[str]:
        """The one safetensors file, else the one pickle, which is read as tensors alone."""
        found = [name for name in names if name.lower().endswith(SINGLE)]
        found = found or [name for name in names if name.lower().endswith(CHECKPOINTS)]
        if len(found) != 1:
            held = f"holds {len(found)} networks ({', '.join(found[:8])})" if found else "holds no checkpoint"
            ends = f"expected one file that ends in {', '.join(CHECKPOINTS)}"
            raise UserError(held, ends, "--file NAME takes one" if found else "give another repository")
        return found

    def import_model(self, arguments: argparse.Namespace) -> int:
        """A checkpoint or ncnn's files → a folder, or one safetensors file; proved and read again."""
        from passionsr_trt.export.families.image_network.checkpoints import read_network, recognise, statement

        base, target = arguments.base, arguments.output
        if base is None:
            raise UsageError(
                "nothing to import", "expected a network's .pth or .safetensors file, or ncnn's .param"
            )
        if target.suffix.lower() != SINGLE:
            check_target(target, "model")
        elif target.exists():
            raise UserError(f"{target}: is there already", "expected a new file's name", "remove it first")
        else:
            check_writable(target.parent)
        if base.suffix.lower() == NCNN:
            from passionsr_trt.export.families.image_network.ncnn_graphs import read_ncnn

            weights = read_ncnn(base, arguments.weights or base.with_suffix(".bin"))
        else:
            weights = read_network(base)
        stated = statement(recognise(weights, str(base)))
        sites = self._write(target, weights, stated)
        kind = f"{stated['architecture']} ×{stated['scale']}"
        print(f"{target}: {kind}, {sites} sites, written and read again")
        return 0

    def _write(self, target: Path, weights: dict[str, Tensor], stated: dict[str, Any]) -> int:
        """The number of sites of what was written. Nothing stays where it cannot be read again."""
        from safetensors.torch import save_file

        own = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
        if target.suffix.lower() == SINGLE:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(target.parent) as folder:
                save_file(own, folder / WEIGHTS)
                (folder / WEIGHTS).chmod(0o644)
                model = self.load(folder / WEIGHTS)
                (folder / WEIGHTS).replace(target)
            return len(model.parts[0].sites())
        with atomic_folder(target, "model") as folder:
            save_file(own, folder / WEIGHTS)
            (folder / DESCRIPTION).write_text(json.dumps(stated, indent=1) + "\n")
            model = self.load(folder)
        return len(model.parts[0].sites())
