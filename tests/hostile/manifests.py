"""Manifests and the wrong values of their keys; what else may lie in a file's place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import COMMITTED
from tests.hostile.bench import rewrite

Keys = tuple[str | int, ...]
GONE = object()
# how a value is replaced: (value, forbidden whatever the key is)
NUMBERS: dict[str, tuple[Any, bool]] = {
    "gone": (GONE, False), "null": (None, False), "text": ("8", True), "list": ([], True), "true": (True, True),
    "negative": (-7, False), "zero": (0, False), "huge": (2**70, False), "half": (0.5, False),
    "NaN": (float("nan"), False), "infinite": (float("inf"), False),
}  # fmt: skip
TEXTS: dict[str, tuple[Any, bool]] = {
    "gone": (GONE, False), "null": (None, False), "number": (7, True), "list": (["x"], True), "empty": ("", False),
    "escape": ("\x1b[31m\nerror: forged", False), "up": ("../../x", False), "root": ("/etc/hostname", False),
    "zero byte": ("a\0b", False), "surrogate": ("\ud800", False), "long": ("x" * 5000, False),
}  # fmt: skip
FLAGS: dict[str, tuple[Any, bool]] = {
    "gone": (GONE, False), "null": (None, True), "number": (1, True), "text": ("yes", True), "object": ({}, True),
}  # fmt: skip
TREES: dict[str, tuple[Any, bool]] = {
    "gone": (GONE, False), "null": (None, False), "number": (7, True), "text": ("x", True), "empty list": ([],
    False),
    "empty object": ({}, False), "list of null": ([None], True), "nested": ({"a": {"b": [{}]}}, True),
}  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def write(folder: Path, manifest: dict[str, Any]) -> None:
    rewrite(folder / "manifest.json", json.dumps(manifest))


def rehash(folder: Path, **more: Any) -> None:
    """Make the manifest agree with the files that it lists; `more`: keys to change."""
    manifest = {**read(folder), **more}
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write(folder, manifest)


def paths(value: Any, above: Keys = ()) -> Iterator[Keys]:
    """Every key of a manifest; of a list the first entry stands for all, of parts the first two."""
    entries: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, dict):
        entries = iter(value.items())
    elif isinstance(value, list):
        entries = iter(list(enumerate(value))[: 2 if above == ("parts",) else 1])
    for key, inner in entries:
        yield (*above, key)
        yield from paths(inner, (*above, key))


def at(manifest: Any, keys: Keys) -> Any:
    for key in keys:
        manifest = manifest[key]
    return manifest


def replacements(value: Any) -> dict[str, tuple[Any, bool]]:
    """What a value is replaced by, by its type."""
    if isinstance(value, bool):
        return FLAGS
    if isinstance(value, int | float):
        return NUMBERS
    return TEXTS if isinstance(value, str) else TREES


def put(keys: Keys, value: Any, manifest: Any) -> None:
    """One key's value replaced, or the key gone; KeyError or IndexError where there is no such key."""
    *above, last = keys
    holder = at(manifest, tuple(above))
    if value is GONE:
        del holder[last]
    else:
        holder[last] = value


SCHEMA = f'"schema_version": {read(COMMITTED / "onnx_int8")["schema_version"]}'
Edit = Callable[[str], str | bytes]
DEEP = 100_000
TEXT_EDITS: dict[str, Edit] = {
    "empty": lambda _text: "",
    "white space": lambda _text: " \n\t",
    "cut": lambda text: text[: len(text) // 2],
    "binary": lambda text: text.encode() + bytes(range(256)),
    "byte order mark": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "latin-1": lambda text: text.replace("stable-diffusion", "stable-diffüsion").encode("latin-1"),
    "not an object": lambda _text: "[]",
    "a number": lambda _text: "3",
    "null": lambda _text: "null",
    "NaN": lambda _text: "NaN",
    "twice": lambda text: text + text,
    "comments": lambda text: "// mine\n" + text,
    "a key twice": lambda text: text.replace('"upscale": 2', '"upscale": 4, "upscale": 2'),
    "files twice": lambda text: text.replace('"files": {', '"files": {}, "files": {'),
    "schema twice": lambda text: text.replace(SCHEMA, f'"schema_version": 99, {SCHEMA}', 1),
    "nested lists": lambda _text: "[" * DEEP + "]" * DEEP,
    "nested objects": lambda _text: '{"a":' * DEEP + "1" + "}" * DEEP,
    "nested key": lambda text: text.replace('"upscale": 2', f'"upscale": {"[" * DEEP}{"]" * DEEP}'),
    "long number": lambda text: text.replace('"upscale": 2', f'"upscale": {"9" * 6000}'),
    "1e400": lambda text: text.replace('"percentile": 99.99', '"percentile": 1e400'),
    "schema -1": lambda text: text.replace(SCHEMA, '"schema_version": -1', 1),
    "schema 0": lambda text: text.replace(SCHEMA, '"schema_version": 0', 1),
    "schema 2": lambda text: text.replace(SCHEMA, '"schema_version": 2', 1),
    "schema 99": lambda text: text.replace(SCHEMA, '"schema_version": 99', 1),
    "schema true": lambda text: text.replace(SCHEMA, '"schema_version": true', 1),
    "schema 1.5": lambda text: text.replace(SCHEMA, '"schema_version": 1.5', 1),
    "schema text": lambda text: text.replace(SCHEMA, '"schema_version": "1"', 1),
    "unknown key": lambda text: text.replace("{", '{"invented": true,', 1),
    "another kind": lambda text: text.replace("-bundle", "-bundles", 1),
}


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**36)  # sparse


PLACES: dict[str, Callable[[Path], None]] = {
    "gone": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "64 GiB": _huge,
}
