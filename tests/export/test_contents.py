"""A file of weights that is not what its name says is told what it is."""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.weights import read_checkpoint
from PIL import Image
from safetensors.torch import save_file
from torch import nn

WEIGHTS = {"conv.weight": torch.ones(2, 3)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


class Net(nn.Module):
    """Pickled whole, it is found by this module's name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/net.pth", "weights")


def cut(path: Path) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:300])


def old(what: Any, path: Path) -> None:
    torch.save(what, path, _use_new_zipfile_serialization=False)


STATE_DICT = "expected names and tensors alone (a state dict); where it loads"
WHOLE = f"a whole pickled module or object ({Net.__module__}.Net), which runs code when it is read; {STATE_DICT}"
CASES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "safetensors": (
        "a.pth",
        lambda path: save_file(WEIGHTS, path),
        "a safetensors file by its content; expected a ",
    ),
    "its new name": ("a.pth", lambda path: save_file(WEIGHTS, path), "rename it to a.safetensors"),
    "pickle": ("a.safetensors", lambda path: torch.save(WEIGHTS, path), "rename it to a.pth"),
    "old pickle": ("a.safetensors", lambda path: old(WEIGHTS, path), "a pickle of PyTorch's by its content"),
    "zip": ("a.pth", zipped, "a zip archive (net/net.pth) by its content"),
    "page": ("a.pth", lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a web page by its content"),
    "page too": ("a.safetensors", lambda path: path.write_text("<html>"), "a web page by its content"),
    "pointer": ("a.pth", lambda path: path.write_text(POINTER), "git lfs pull"),
    "pointer too": ("a.safetensors", lambda path: path.write_text(POINTER), "git lfs pull"),
    "empty": ("a.safetensors", lambda path: path.write_text(""), "empty by its content"),
    "text": ("a.pth", lambda path: path.write_text("Entry not found"), "text by its content"),
    "PNG": ("a.pth", lambda path: Image.new("RGB", (8, 8)).save(path, "PNG"), "is a picture by its content"),
    "JPEG": ("a.pkl", lambda path: Image.new("L", (8, 8)).save(path, "JPEG"), "; give the file of weights"),
    "TIFF": ("a.safetensors", lambda path: Image.new("L", (8, 8)).save(path, "TIFF"), "is a picture by its"),
    "WebP": ("a.ckpt", lambda path: Image.new("L", (8, 8)).save(path, "WEBP"), "is a picture by its content"),
    "BMP": ("a.pth", lambda path: Image.new("L", (8, 8)).save(path, "BMP"), "is a picture by its content"),
    "HDF5": ("a.pth", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file by its"),
    "missing": ("a.pkl", lambda path: path.unlink(missing_ok=True), "a.pkl: no such file; expected a checkpoint"),
    "cut": ("a.pth", cut, "cannot be read (PytorchStreamReader failed"),
    "cut safetensors": (
        "a.safetensors",
        lambda path: path.write_bytes(b"\x99" * 99),
        "not a whole safetensors file",
    ),
    "noise": ("a.pth", lambda path: path.write_bytes(bytes(range(128, 256))), "refused, it is damaged"),
    "module": ("a.pth", lambda path: torch.save(Net(), path), WHOLE),
    "old module": ("a.pth", lambda path: old(Net(), path), WHOLE),
    "arguments": (
        "a.pth",
        lambda path: torch.save({"args": argparse.Namespace(), **WEIGHTS}, path),
        f"holds more than tensors (argparse.Namespace), which runs code when it is read; {STATE_DICT}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_it_is_in_one_line(tmp_path: Path, case: str) -> None:
    name, write, words = CASES[case]
    write(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read_checkpoint(tmp_path / name)
    line = str(caught.value)
    assert words in line and line.isprintable() and "weights_only" not in line


def test_what_is_right_is_read_and_nothing_runs(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "a.pth")
    old(WEIGHTS, tmp_path / "old.pth")
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert torch.equal(read_checkpoint(path)["conv.weight"], WEIGHTS["conv.weight"])

    class Bomb:
        def __reduce__(self) -> Any:
            return sys.exit, ("it ran",)

    torch.save(Bomb(), tmp_path / "bomb.pth")
    with pytest.raises(UserError, match=r"a whole pickled module or object \(sys.exit\)"):
        read_checkpoint(tmp_path / "bomb.pth")
