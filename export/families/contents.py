"""What a file of weights is by its content, where it cannot be read as what its name says."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO

from passionsr_trt.engines.common.errors import UserError

SAFETENSORS, PICKLE = "a safetensors file", "a pickle of PyTorch's"
AGAIN, UNPACK = "get the file itself", "unpack it first"
# how files begin, what they are, the way out
BEGINNINGS = (
    (rb"version https://git-lfs", "a git-LFS pointer in the file's place", "git lfs pull"),
    (rb"\s*(<!doctype html|<html|<\?xml)", "a web page", AGAIN),
    (rb"\s*[\[{]", "JSON text", AGAIN),
    (rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed archive", UNPACK),
    (rb"7767517\b", "ncnn's graph", "give the weights that it was made from"),
    (rb"GGUF", "a GGUF file", "give the weights that it was made from"),
    (rb"\x08.{1,80}(pytorch|onnx)", "an ONNX graph", "give the weights that it was made from"),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|II\*\0|MM\0\*|BM.{4}\0{4}",
        "a picture",
        "give the file of weights",
    ),
    (rb"%PDF-", "a PDF", AGAIN),
    (rb"\x89HDF", "an HDF5 file", "give weights of PyTorch's"),
    (rb"\x80[\x02-\x05]", PICKLE, ""),
    (rb"[\t\r\n\x20-\x7e]+\Z", "text", AGAIN),
)
GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")
REASON = re.compile(r"WeightsUnpickler error: ([^\n]{1,120})")  # the rest of PyTorch's words is advice


def content_of(path: Path) -> tuple[str, str]:
    """(what it is, the way out) by its first bytes; two empty strings where they say nothing."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty", AGAIN
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return SAFETENSORS, ""
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):  # truncated: the reader says so
            return "", ""
        if any(name.endswith("/constants.pkl") for name in names):
            return "a TorchScript program", "give the weights that it was made from"
        if any(name.endswith("/data.pkl") for name in names):
            return PICKLE, ""
        return f"a zip archive ({names[0] if names else 'empty'})", UNPACK
    found = (entry for entry in BEGINNINGS if re.match(entry[0], head, re.IGNORECASE | re.DOTALL))
    return next(((what, fix) for _pattern, what, fix in found), ("", ""))


def refuse_other(path: Path, wanted: str) -> None:
    """UserError where the content is known and not the one of SAFETENSORS and PICKLE that is wanted."""
    what, fix = content_of(path)
    if not what or what == wanted:
        return
    if other := {SAFETENSORS: ".safetensors", PICKLE: ".pth"}.get(what):
        fix = f"rename it to {path.with_suffix(other).name}"
    raise UserError(
        f"{path}: is {what} by its content", f"expected {wanted}, as {path.suffix or 'here'} says", fix
    )


def refused_pickle(path: Path, error: Exception) -> UserError:
    """Of a pickle that PyTorch does not take with weights_only=True."""
    named = GLOBAL.search(str(error))
    if named is None:
        reason = f" ({found[1].strip()})" if (found := REASON.search(str(error))) else ""
        what = f"refused, it is damaged or holds more than tensors{reason}"
        return UserError(f"{path}: {what}", "expected a plain checkpoint")
    expected = "expected names and tensors alone (a state dict)"
    if is_whole_object(path):
        return UserError(
            f"{path}: a whole pickled module or object ({named[1]}), which runs code when it is read",
            expected,
            "where it loads: torch.save(module.state_dict(), 'weights.pth')",
        )
    return UserError(
        f"{path}: holds more than tensors ({named[1]}), which runs code when it is read",
        expected,
        "where it loads, save its state dict alone by torch.save",
    )


def is_whole_object(path: Path) -> bool:
    """Is what was pickled no dictionary of weights? It is looked at, not loaded."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(name) as file:
                    return not _begins_with_dictionary(file)
        with path.open("rb") as file:
            for _header in range(3):  # of the format before zip: a magic number, a version, the machine
                for _operation in pickletools.genops(file):
                    pass
            return not _begins_with_dictionary(file)
    except Exception:  # a damaged pickle raises anything
        return False


def _begins_with_dictionary(file: IO[bytes]) -> bool:
    for operation, argument, _place in pickletools.genops(file):
        if operation.name not in ("PROTO", "FRAME"):
            return operation.name == "EMPTY_DICT" or str(argument).startswith("collections")
    return True
