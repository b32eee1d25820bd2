"""Bundles whose files are damaged, swapped, elsewhere, or whole and yet not what the manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.bench import Bench, difference, linked_copy
from tests.hostile.bundles import read
from tests.hostile.harness import Case, Outcome, Trial

KIND = "files"
Change = Callable[[Path, Bench], None]  # of a bundle's folder
PARTS = ("vae_encoder", "unet", "vae_decoder")
STAGES = ("infer", "provider", "build")


def cases() -> Iterator[Case]:
    from tests.hostile import graphs

    for stage in STAGES:
        for label, change in {**damages(PARTS if stage == "infer" else ("unet",)), **elsewhere()}.items():
            yield case(f"{stage} {label}", stage, change, False)
        for label, change in wirings().items():
            yield case(f"{stage} {label}", stage, change, False)
        for label, (change, accept) in {**companions(), **graphs.changes()}.items():
            yield case(f"{stage} {label}", stage, change, accept)
    for label, change in precisions().items():
        yield case(f"build {label}", "build", change, False)
        yield case(f"build dry {label}", "dry", change, None)


def case(name: str, stage: str, change: Change, accept: bool | None) -> Case:
    return Case(name, KIND, partial(_make, stage, change, accept))


def _make(stage: str, change: Change, accept: bool | None, folder: Path, bench: Bench) -> Trial:
    """The changed bundle is run, or built and searched for what does not belong into engines."""
    source = bench.int8 if stage == "infer" else bench.onnx_int8
    copy = linked_copy(source, folder / "bundle", without=["manifest.json"])
    shutil.copy(source / "manifest.json", copy / "manifest.json")
    change(copy, bench)
    if stage in ("build", "dry"):
        argv = ["build-engines", "bundle", "-o", "out", *(["--dry-run"] if stage == "dry" else [])]
        return Trial(argv, accept, lambda _outcome: foreign(folder / "out"), seconds=60)
    expected = bench.result if stage == "infer" else bench.onnx_result

    def right(_outcome: Outcome) -> str:
        if accept is None:
            from tests.hostile.pictures import nothing_seen

            return nothing_seen(folder / "out.png", bench.good)
        return difference(folder / "out.png", expected)

    argv = ["infer", str(bench.good), "-o", "out.png", "--engines", "bundle", "--no-cache"]
    return Trial([*argv, *(["--provider", "cpu"] if stage == "provider" else [])], accept, right, may=("out.png",))


def foreign(out: Path) -> str:
    """Files of engines that their manifest does not list."""
    if not out.is_dir():
        return ""
    listed = {*read(out)["files"], "manifest.json"}
    found = {path.name for path in out.iterdir()} - listed
    links = {path.name for path in out.iterdir() if path.is_symlink()}
    return f"copied: {sorted(found | links)}" if found | links or "secret.txt" in str(listed) else ""


def rewrite(path: Path, content: bytes) -> None:
    """New content under a name that may be a hard link."""
    path.unlink()
    path.write_bytes(content)


def rehash(folder: Path, **more: Any) -> None:
    """Make the manifest agree with the files that it lists; `more`: keys to change."""
    manifest = {**read(folder), **more}
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def damages(parts: tuple[str, ...]) -> dict[str, Change]:
    """A file is not what its digest says, or its digest is right and the file is no graph."""
    chance = random.Random(3)
    edits: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda _data: b"",
        "one byte": lambda data: data[:1],
        "one byte short": lambda data: data[:-1],
        "one byte more": lambda data: data + b"x",
        "text": lambda data: b"not a graph\n" * (len(data) // 12),
        "zeros": lambda data: bytes(len(data)),
        "noise": lambda _data: random.Random(5).randbytes(3000),
    }
    for share in (0.01, 0.5, 0.99):
        edits[f"cut at {share:.0%}"] = partial(cut, share)
        edits[f"bit flipped {share}"] = partial(flipped, chance.random())

    def damage(part: str, edit: Callable[[bytes], bytes], again: bool, folder: Path, _bench: Bench) -> None:
        path = folder / f"{part}.onnx"
        rewrite(path, edit(path.read_bytes()))
        if again:
            rehash(folder)

    found: dict[str, Change] = {}
    for part in parts:
        for label, edit in edits.items():
            found[f"{part} {label}"] = partial(damage, part, edit, False)
    for label in ("empty", "one byte", "text", "noise", "cut at 1%", "cut at 50%"):
        found[f"unet {label}, rehashed"] = partial(damage, "unet", edits[label], True)
    return found


def cut(share: float, data: bytes) -> bytes:
    return data[: int(len(data) * share)]


def flipped(share: float, data: bytes) -> bytes:
    at = int(len(data) * share)
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def elsewhere() -> dict[str, Change]:
    """A file that is gone, or no file, or outside the folder."""

    def place(put: Callable[[Path], None], folder: Path, _bench: Bench) -> None:
        path = folder / "unet.onnx"
        shutil.copy(path, folder.parent / "outside.onnx")
        path.unlink()
        put(path)

    def listed(name: str, folder: Path, _bench: Bench) -> None:
        shutil.copy(folder / "unet.onnx", folder.parent / "outside.onnx")
        manifest = read(folder)
        part = next(part for part in manifest["parts"] if part["name"] == "unet")
        part["file"] = name.replace("$ABOVE", str(folder.parent.resolve()))
        manifest["files"][part["file"]] = manifest["files"].pop("unet.onnx")
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    puts: dict[str, Callable[[Path], None]] = {
        "gone": lambda _path: None,
        "a folder": lambda path: path.mkdir(),
        "a FIFO": lambda path: os.mkfifo(path),
        "a loop": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "a link out of the folder": lambda path: path.symlink_to("../outside.onnx"),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    }
    found: dict[str, Change] = {f"unet is {label}": partial(place, put) for label, put in puts.items()}
    for name in (
        "../outside.onnx",
        "$ABOVE/outside.onnx",
        "x/../../outside.onnx",
        "",
        ".",
        "unet.onnx/",
        "a\nb.onnx",
    ):
        found[f"file {name!r}"] = partial(listed, name)
    return found


def wirings() -> dict[str, Change]:
    """Parts that are no chain, each key of the right type."""

    def edit(change: Callable[[list[dict[str, Any]]], Any], folder: Path, _bench: Bench) -> None:
        manifest = read(folder)
        manifest["parts"] = change(manifest["parts"]) or manifest["parts"]
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    changes: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
        "reversed": lambda parts: parts[::-1],
        "first missing": lambda parts: parts[1:],
        "middle missing": lambda parts: [parts[0], parts[2]],
        "last missing": lambda parts: parts[:2],
        "first twice": lambda parts: [parts[0], *parts],
        "unknown input": lambda parts: parts[1]["inputs"].__setitem__(0, {**parts[1]["inputs"][0], "name": "x"}),
        "no inputs": lambda parts: parts[1].update(inputs=[]),
        "input twice": lambda parts: parts[1].update(inputs=parts[1]["inputs"] * 2),
        "other channels": lambda parts: parts[0]["output"].update(channels=8),
        "other stride": lambda parts: parts[0]["output"].update(stride=4),
        "image of 4 channels": lambda parts: parts[0]["inputs"][0].update(channels=4),
        "image of stride 2": lambda parts: parts[0]["inputs"][0].update(stride=2),
        "picture of 4 channels": lambda parts: parts[2]["output"].update(channels=4),
        "picture of stride 2": lambda parts: parts[2]["output"].update(stride=2),
        "picture named image": lambda parts: parts[2]["output"].update(name="image"),
        "names alike": lambda parts: parts[1].update(name=parts[0]["name"]),
        "files alike": lambda parts: parts[1].update(file=parts[0]["file"]),
        "multiple of 7": lambda parts: parts[1].update(multiple=7),
        "noise for image": lambda parts: parts[0]["inputs"][0].update(name="noise"),
        "takes lr": lambda parts: parts[0]["inputs"][0].update(name="lr", stride=2),
    }
    return {f"wiring {label}": partial(edit, change) for label, change in changes.items()}


def companions() -> dict[str, tuple[Change, bool | None]]:
    """Files beside those that are listed are nobody's business."""

    def beside(name: str, put: Callable[[Path], None], folder: Path, _bench: Bench) -> None:
        (folder.parent / "secret.txt").write_text("secret")
        put(folder / name)

    found: dict[str, tuple[Change, bool | None]] = {}
    for name in ("unet.onnx.passwd", "unet.onnx.data", "unet.txt", "README", ".git"):
        puts: dict[str, Callable[[Path], None]] = {
            "link": lambda path: path.symlink_to("../secret.txt"),
            "file": lambda path: path.write_text("mine") and None,
            "FIFO": lambda path: os.mkfifo(path),
            "folder": lambda path: path.mkdir(),
        }
        for label, put in puts.items():
            if name == "unet.onnx.passwd" or label in ("link", "FIFO"):
                found[f"beside {name} {label}"] = (partial(beside, name, put), True)
    return found


def precisions() -> dict[str, Change]:
    """An INT8 bundle with float graphs, and such; every digest is right."""

    def swap(parts: tuple[str, ...], folder: Path, bench: Bench) -> None:
        for part in parts:
            rewrite(folder / f"{part}.onnx", (bench.onnx_fp32 / f"{part}.onnx").read_bytes())
        rehash(folder)

    def as_float(folder: Path, _bench: Bench) -> None:
        rehash(folder, spec=None, calibration_key=None)

    def float_called_int8(folder: Path, bench: Bench) -> None:
        spec, key = read(folder)["spec"], read(folder)["calibration_key"]
        swap(PARTS, folder, bench)
        shutil.copy(bench.onnx_fp32 / "manifest.json", folder / "manifest.json")
        rehash(folder, spec=spec, calibration_key=key)

    def sites(folder: Path, _bench: Bench) -> None:
        manifest = read(folder)
        for part in manifest["parts"]:
            for site in part["sites"]:
                site["quantized"] = not site["quantized"]
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return {
        "float unet in INT8": partial(swap, ("unet",)),
        "float encoder in INT8": partial(swap, ("vae_encoder",)),
        "all float in INT8": partial(swap, PARTS),
        "INT8 called float": as_float,
        "float called INT8": float_called_int8,
        "sites turned round": sites,
    }
