"""What a folder of diffusers' is by its own words, where it is no model of ours."""

from __future__ import annotations

from pathlib import Path

from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UserError

PIPELINE = "StableDiffusionPipeline"  # the one that `import-model` takes


def class_of(folder: Path) -> str:
    """`StableDiffusionXLPipeline` of a pipeline, `AutoencoderKL` of one module, else `AutoencoderKL in vae/`.

    Empty where it is nothing of diffusers'.
    """
    own = _stated(folder / "model_index.json") or _stated(folder / "config.json")
    if own or not folder.is_dir():
        return own
    parts = {path.name: _stated(path / "config.json") for path in sorted(folder.iterdir()) if path.is_dir()}
    return ", ".join(f"{name} in {part}/" for part, name in parts.items() if name)


def _stated(path: Path) -> str:
    try:
        name = read_object(path, "a config").get("_class_name")
    except (OSError, UserError):
        return ""
    return name if isinstance(name, str) else ""
