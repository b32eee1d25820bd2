"""Bundles whose files are damaged, swapped, elsewhere, or whole and yet not what the manifest says."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import graphs
from tests.hostile.bench import Bench, difference, linked_copy, rewrite
from tests.hostile.manifests import PLACES, read, rehash, write
from tests.hostile.test_pictures import nothing_seen
from tests.hostile.trial import Trial

Change = Callable[[Path], None]  # of a bundle's folder
PARTS = ("vae_encoder", "unet", "vae_decoder")
STAGES = ("infer", "provider", "build")


def cases() -> Iterator[Any]:
    for stage in STAGES:
        refused = {**damages(PARTS if stage == "infer" else ("unet",)), **elsewhere(), **wirings()}
        changes = {
            **{label: (change, False) for label, change in refused.items()},
            **companions(),
            **graphs.changes(),
        }
        for label, (change, accept) in changes.items():
            yield pytest.param(stage, change, accept, id=f"{stage} {label}")


def copied(trial: Trial, source: Path) -> Path:
    """A copy whose manifest may be written."""
    copy = linked_copy(source, trial.folder / "bundle", without=["manifest.json"])
    shutil.copy(source / "manifest.json", copy)
    return copy


def build(trial: Trial, accept: bool | None, *words: str) -> None:
    trial.command("build-engines", "bundle", "-o", "out", *words, accept=accept, seconds=60)
    assert not foreign(trial.folder / "out")


def foreign(out: Path) -> str:
    """Files of engines that their manifest does not list."""
    if not out.is_dir():
        return ""
    listed = {*read(out)["files"], "manifest.json"}
    found = {path.name for path in out.iterdir() if path.is_symlink() or path.name not in listed}
    return f"copied: {sorted(found)}" if found or "secret.txt" in str(listed) else ""


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

    def damage(part: str, edit: Callable[[bytes], bytes], again: bool, folder: Path) -> None:
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

    def place(put: Callable[[Path], None], folder: Path) -> None:
        path = folder / "unet.onnx"
        shutil.copy(path, folder.parent / "outside.onnx")
        path.unlink()
        put(path)

    def listed(name: str, folder: Path) -> None:
        shutil.copy(folder / "unet.onnx", folder.parent / "outside.onnx")
        manifest = read(folder)
        part = next(part for part in manifest["parts"] if part["name"] == "unet")
        part["file"] = name.replace("$ABOVE", str(folder.parent.resolve()))
        manifest["files"][part["file"]] = manifest["files"].pop("unet.onnx")
        write(folder, manifest)

    puts: dict[str, Callable[[Path], None]] = {
        label: PLACES[label] for label in ("gone", "a folder", "a FIFO", "a loop", "dangling", "/dev/zero")
    }
    puts["a link out of the folder"] = lambda path: path.symlink_to("../outside.onnx")
    found: dict[str, Change] = {f"unet is {label}": partial(place, put) for label, put in puts.items()}
    above = ("../outside.onnx", "$ABOVE/outside.onnx", "x/../../outside.onnx")
    return found | {
        f"file {name!r}": partial(listed, name) for name in (*above, "", ".", "unet.onnx/", "a\nb.onnx")
    }


def wirings() -> dict[str, Change]:
    """Parts that are no chain, each key of the right type."""

    def edit(change: Callable[[list[dict[str, Any]]], Any], folder: Path) -> None:
        manifest = read(folder)
        manifest["parts"] = change(manifest["parts"]) or manifest["parts"]
        write(folder, manifest)

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

    def beside(name: str, put: Callable[[Path], None], folder: Path) -> None:
        (folder.parent / "secret.txt").write_text("secret")
        put(folder / name)

    found: dict[str, tuple[Change, bool | None]] = {}
    for name in ("unet.onnx.passwd", "unet.onnx.data", "unet.txt", "README", ".git"):
        puts: dict[str, Callable[[Path], None]] = {
            "link": lambda path: path.symlink_to("../secret.txt"),
            "file": lambda path: path.write_text("mine") and None,
            "FIFO": PLACES["a FIFO"],
            "folder": PLACES["a folder"],
        }
        for label, put in puts.items():
            if name == "unet.onnx.passwd" or label in ("link", "FIFO"):
                found[f"beside {name} {label}"] = (partial(beside, name, put), True)
    return found


@pytest.mark.parametrize(("stage", "change", "accept"), list(cases()))
def test_a_bundle_of_wrong_files(trial: Trial, stage: str, change: Change, accept: bool | None) -> None:
    """It is run, or built and searched for what does not belong into engines."""
    bench, out = trial.bench, trial.folder / "out.png"
    copy = copied(trial, bench.int8 if stage == "infer" else bench.onnx_int8)
    change(copy)
    if stage == "build":
        build(trial, accept)
        return
    words = [bench.good, "--no-cache", *(["--provider", "cpu"] if stage == "provider" else [])]
    outcome = trial.infer(*words, output=out.name, engines=copy, accept=accept, may=(out.name,))
    if outcome.status == 0:
        expected = bench.result if stage == "infer" else bench.onnx_result
        assert not (nothing_seen(out, bench.good) if accept is None else difference(out, expected))


def swap(parts: tuple[str, ...], folder: Path, bench: Bench) -> None:
    for part in parts:
        rewrite(folder / f"{part}.onnx", (bench.onnx_fp32 / f"{part}.onnx").read_bytes())
    rehash(folder)


def float_called_int8(folder: Path, bench: Bench) -> None:
    spec, key = read(folder)["spec"], read(folder)["calibration_key"]
    swap(PARTS, folder, bench)
    shutil.copy(bench.onnx_fp32 / "manifest.json", folder / "manifest.json")
    rehash(folder, spec=spec, calibration_key=key)


def turned_round(folder: Path, _bench: Bench) -> None:
    manifest = read(folder)
    for part in manifest["parts"]:
        for site in part["sites"]:
            site["quantized"] = not site["quantized"]
    write(folder, manifest)


# every digest is right
PRECISIONS: dict[str, Callable[[Path, Bench], None]] = {
    "float unet in INT8": partial(swap, ("unet",)),
    "float encoder in INT8": partial(swap, ("vae_encoder",)),
    "all float in INT8": partial(swap, PARTS),
    "INT8 called float": lambda folder, _bench: rehash(folder, spec=None, calibration_key=None),
    "float called INT8": float_called_int8,
    "sites turned round": turned_round,
}


@pytest.mark.parametrize("dry", (False, True))
@pytest.mark.parametrize("label", PRECISIONS)
def test_a_bundle_of_another_precision_than_it_says(trial: Trial, label: str, dry: bool) -> None:
    PRECISIONS[label](copied(trial, trial.bench.onnx_int8), trial.bench)
    build(trial, None if dry else False, *(["--dry-run"] if dry else []))
