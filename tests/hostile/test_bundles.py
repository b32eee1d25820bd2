"""Manifests that are wrong in every key, and manifests that are no manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import COMMITTED
from tests.hostile.bench import difference, linked_copy, rewrite
from tests.hostile.manifests import GONE, PLACES, TEXT_EDITS, Keys, at, paths, put, read, replacements, write
from tests.hostile.trial import Trial

SAME = ("spec", "versions", "files")  # read alike in both kinds of bundle
both = pytest.mark.parametrize("stage", ("engines", "onnx"))


def infer(trial: Trial, stage: str, accept: bool | None) -> None:
    """A copy of a bundle is run on the good picture, and has to give what the bundle gives."""
    bench, engines = trial.bench, trial.folder / "bundle"
    words = [bench.good, *(["--provider", "cpu"] if stage == "onnx" else [])]
    outcome = trial.infer(*words, output="out.png", engines=engines, accept=accept, may=("out.png",))
    if outcome.status == 0:
        expected = bench.result if stage == "engines" else bench.onnx_result
        assert not difference(trial.folder / "out.png", expected)


def copied(trial: Trial, stage: str) -> str:
    """The manifest's text; the copy has none."""
    source = trial.bench.int8 if stage == "engines" else trial.bench.onnx_int8
    linked_copy(source, trial.folder / "bundle", without=["manifest.json"])
    return (source / "manifest.json").read_text(encoding="utf-8")


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


def mutations() -> Iterator[Any]:
    for stage, manifest in (("engines", engine_manifest()), ("onnx", read(COMMITTED / "onnx_int8"))):
        for keys in paths(manifest):
            if stage == "engines" or keys[0] not in SAME:
                for how, (value, forbidden) in replacements(at(manifest, keys)).items():
                    accept = False if forbidden and "versions" not in keys else None
                    name = f"{stage} {'.'.join(map(str, keys))} {how}"
                    yield pytest.param(stage, keys, value, accept, id=name)


@pytest.mark.parametrize(("stage", "keys", "value", "accept"), list(mutations()))
def test_a_manifest_of_one_wrong_value(
    trial: Trial, stage: str, keys: Keys, value: Any, accept: bool | None
) -> None:
    manifest = json.loads(copied(trial, stage))
    try:
        put(keys, value, manifest)
    except (KeyError, IndexError):  # this build has no such key: a new one, which is unknown
        manifest[str(keys[-1])] = None if value is GONE else value
    write(trial.folder / "bundle", manifest)
    infer(trial, stage, accept)


@both
def test_a_manifest_of_nothing_wrong(trial: Trial, stage: str) -> None:
    rewrite(trial.folder / "bundle" / "manifest.json", copied(trial, stage))
    infer(trial, stage, True)


@both
@pytest.mark.parametrize("label", TEXT_EDITS)
def test_a_manifest_of_a_wrong_text(trial: Trial, stage: str, label: str) -> None:
    text = copied(trial, stage)
    rewrite(trial.folder / "bundle" / "manifest.json", TEXT_EDITS[label](text))
    infer(trial, stage, False)


@both
@pytest.mark.parametrize("label", PLACES)
def test_a_manifest_that_is_no_file(trial: Trial, stage: str, label: str) -> None:
    copied(trial, stage)
    PLACES[label](trial.folder / "bundle" / "manifest.json")
    infer(trial, stage, False)
