"""Manifests that are wrong in every key, and manifests that are no manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.manifest import SCHEMA_VERSION

from tests.conftest import COMMITTED
from tests.hostile.bench import Bench, difference, linked_copy
from tests.hostile.harness import Case, Outcome, Trial

KIND = "bundles"
SCHEMA = f'"schema_version": {SCHEMA_VERSION}'
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
SAME = ("spec", "versions", "files")  # read alike in both kinds of bundle


def cases() -> Iterator[Case]:
    for stage, manifest in (("engines", engine_manifest()), ("onnx", read(COMMITTED / "onnx_int8"))):
        for keys in paths(manifest):
            if stage == "onnx" and keys[0] in SAME:
                continue
            for how, (value, forbidden) in replacements(at(manifest, keys)).items():
                name = f"{stage} {'.'.join(map(str, keys))} {how}"
                accept = False if forbidden and not set(keys) & {"versions"} else None
                yield Case(name, KIND, partial(_mutated, stage, keys, value, accept))
        for label, text in TEXT_EDITS.items():
            yield Case(f"{stage} {label}", KIND, partial(_text, stage, text))
        for label, place in PLACES.items():
            yield Case(f"{stage} manifest {label}", KIND, partial(_placed, stage, place))
    for label, words in {"infer": "engines", "provider": "onnx", "build": "onnx"}.items():
        yield Case(
            f"{label} with nothing wrong",
            KIND,
            partial(_mutated, words, ("schema_version",), SCHEMA_VERSION, True),
        )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def engine_manifest() -> dict[str, Any]:
    """The keys of an engine bundle's manifest, their values of the right types, without building one."""
    manifest = read(COMMITTED / "onnx_int8")
    del manifest["calibration_key"]
    figures = {
        "sites_int8": 1, "sites_quantized": 1, "macs_share": 1.0, "kernels": {"conv": 1}, "bytes_moved": 0,
        "float_sites": [], "conversions": [], "attention_fused": 0, "attention": 1, "activation_bytes": 1000,
    }  # fmt: skip
    target = {
        "bfloat16": True, "graph_revision": 1, "weight_code_limit": 63, "convolutions": True, "phases": True,
        "blocks": True,
    }  # fmt: skip
    more = {"backend": "openvino", "target": target, "key": {"backend": "openvino"}, "proof": {"unet": 0.1}}
    return {**manifest, **more, "coverage": {"unet": figures}}


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


def trial(stage: str, copy: Path, folder: Path, bench: Bench, accept: bool | None) -> Trial:
    """The copy is run on the good picture, and has to give what the bundle gives."""
    expected = bench.result if stage == "engines" else bench.onnx_result
    argv = ["infer", str(bench.good), "-o", "out.png", "--engines", copy.name]
    if stage == "onnx":
        argv += ["--provider", "cpu"]

    def right(_outcome: Outcome) -> str:
        return difference(folder / "out.png", expected)

    return Trial(argv, accept, right, may=("out.png",))


def copied(stage: str, folder: Path, bench: Bench) -> Path:
    source = bench.int8 if stage == "engines" else bench.onnx_int8
    return linked_copy(source, folder / "bundle", without=["manifest.json"])


def _mutated(stage: str, keys: Keys, value: Any, accept: bool | None, folder: Path, bench: Bench) -> Trial:
    manifest = deepcopy(read(bench.int8 if stage == "engines" else bench.onnx_int8))
    copy = copied(stage, folder, bench)
    try:
        *above, last = keys
        holder = at(manifest, tuple(above))
        if value is GONE:
            del holder[last]
        else:
            holder[last] = value
    except (KeyError, IndexError):  # this build has no such key: a new one, which is unknown
        manifest[str(keys[-1])] = None if value is GONE else value
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return trial(stage, copy, folder, bench, accept)


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


def _text(stage: str, edit: Edit, folder: Path, bench: Bench) -> Trial:
    source = bench.int8 if stage == "engines" else bench.onnx_int8
    text = (source / "manifest.json").read_text(encoding="utf-8")
    copy = copied(stage, folder, bench)
    edited = edit(text)
    (copy / "manifest.json").write_bytes(edited.encode() if isinstance(edited, str) else edited)
    return trial(stage, copy, folder, bench, False)


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


def _placed(stage: str, place: Callable[[Path], None], folder: Path, bench: Bench) -> Trial:
    copy = copied(stage, folder, bench)
    place(copy / "manifest.json")
    return trial(stage, copy, folder, bench, False)
