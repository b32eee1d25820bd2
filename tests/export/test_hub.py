"""`import-model OWNER/NAME`, against a hub on this machine that is named by $HF_ENDPOINT."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from passionsr_trt.export.families.stable_diffusion.folder import OneStepModel

from tests.export.networks import write_small
from tests.hub_server import COMMIT, Hub, served

pytest.importorskip("huggingface_hub")
IMPORT = """
from passionsr_trt.runtime.main import main
def work(words): return main(["import-model", *words])
"""
FETCH = """
from argparse import Namespace
from pathlib import Path
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.hub import located
from passionsr_trt.export.families.image_network.family import ImageNetwork
def work(words):
    try:
        print(located(ImageNetwork(), Namespace(base=Path(words[0]), revision=None, file=None)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
"""  # what `import-model` does first, without PyTorch
RUN = """
import contextlib, io, json, sys
results = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = work(words)
    results.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Ran:
    """What a command gave back and printed."""

    status: int
    out: str
    err: str

    def refusal(self) -> str:
        """Its one line; bars of the download are none."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.status == 1 and len(lines) == 1, self
        return lines[0]


def results(work: str, folder: Path, endpoint: str, words: list[list[str]], **variables: str) -> list[Ran]:
    """IMPORT or FETCH of every list of words, in one process whose hub and cache are these."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    program = [sys.executable, "-c", work + RUN, json.dumps(words)]
    done = subprocess.run(
        program, cwd=folder, env={**os.environ, **own, **variables}, capture_output=True, text=True, check=True
    )
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return [Ran(*result) for result in found]


@dataclass(frozen=True)
class Tried:
    folder: Path
    hub: Hub
    ran: dict[str, Ran]


@pytest.fixture(scope="module")
def tried(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    folder = tmp_path_factory.mktemp("hub")
    repository, pickled, two, one, here = (folder / name for name in ("sd", "pickled", "two", "one", "acme/here"))
    shutil.copytree(small_model, repository)
    for file in ("one_step.json", "text_embedding.safetensors"):
        (repository / file).unlink()
    shutil.copytree(repository, pickled)
    for path in (repository, pickled):
        for file in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"):
            (path / file).write_bytes(b"not to be fetched")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for path in (two, one, here):
        path.mkdir(parents=True)
    write_small("Compact", one / "network.safetensors")
    write_small("Compact", one / "network.pth")
    write_small("Compact", two / "a.safetensors")
    write_small("Compact", two / "b.pth")
    write_small("SPAN", two / "c.safetensors")
    torch.save(torch.randn(1, 7, 24), folder / "text.pt")
    text, network = ["--text-embedding", "text.pt"], ["--family", "image-network"]
    words = {
        "folder": ["acme/sd", "-o", "model", "--upscale", "2", *text],
        "again": ["acme/sd", "-o", "model2", "--upscale", "2", "--revision", COMMIT, *text],
        "network": ["acme/one", "-o", "network.safetensors", *network],
        "file": ["acme/two", "-o", "file.safetensors", "--file", "b.pth", *network],
        "two": ["acme/two", "-o", "no", *network],
        "missing": ["acme/missing", "-o", "no", *text],
        "revision": ["acme/sd", "-o", "no", "--revision", "v2", *text],
        "no file": ["acme/sd", "-o", "no", "--file", "x.safetensors", *text],
        "no text encoder": ["acme/sd", "-o", "no"],
        "gated": ["acme/gated", "-o", "no", *text],
        "broken": ["acme/broken", "-o", "no", *text],
        "pickled": ["acme/pickled", "-o", "no", *text],
        "here": ["acme/here", "-o", "no", *text],
        "revision of a path": ["acme/here", "-o", "no", "--revision", "main", *text],
    }
    repositories = {"acme/sd": repository, "acme/pickled": pickled, "acme/one": one, "acme/two": two}
    hub = Hub({**repositories, "acme/gated": None, "acme/broken": folder / "nothing", "acme/here": repository})
    hub.cut = {"network.safetensors"}
    with served(hub):
        ran = results(IMPORT, folder, hub.address, list(words.values()))
    return Tried(folder, hub, dict(zip(words, ran, strict=True)))


def test_a_repository_is_imported_and_only_what_is_needed_is_fetched(tried: Tried, small_model: Path) -> None:
    assert tried.ran["folder"].status == 0, tried.ran["folder"]
    assert f"acme/sd: 5 files of {tried.hub.address}, commit {COMMIT[:12]}" in tried.ran["folder"].out
    found, expected = OneStepModel.load(tried.folder / "model"), OneStepModel.load(small_model)
    for key, tensor in expected.unet.state_dict().items():
        assert torch.equal(found.unet.state_dict()[key], tensor)
    whole = [file for file in tried.hub.fetched() if "/" in file]
    assert sorted(set(whole)) == [
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert tried.ran["again"].status == 0 and len(whole) == 5, "the second time from the cache"


def test_a_network_is_one_file_safetensors_first_and_what_broke_off_is_fetched_again(tried: Tried) -> None:
    for name in ("network", "file"):
        assert tried.ran[name].status == 0 and "Compact" in tried.ran[name].out, tried.ran[name]
    assert "network.pth" not in tried.hub.fetched() and "b.pth" in tried.hub.fetched()
    asked = [line for line in tried.hub.log if line.startswith("GET") and "network.safetensors" in line]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("missing", ["acme/missing: neither a path here nor a repository", "hf auth login"]),
        ("revision", ["acme/sd at v2: no such revision", "/acme/sd"]),
        ("no file", ["acme/sd: no file x.safetensors; expected one of scheduler/"]),
        ("no text encoder", ["acme/sd: holds no text_encoder/config.json", "or --text-embedding names a file"]),
        ("gated", ["acme/gated: its authors give it to those who accept their terms", "/acme/gated"]),
        ("broken", ["acme/broken: not here, and the hub does not give it", "HF_ENDPOINT"]),
        (
            "pickled",
            ["acme/pickled: holds no unet/diffusion_pytorch_model.safetensors; expected a diffusers folder"],
        ),
        ("two", ["acme/two: holds 2 networks (a.safetensors, c.safetensors)", "--file NAME"]),
        ("here", ["acme/here: is empty"]),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_way_out(tried: Tried, name: str, parts: list[str]) -> None:
    line = tried.ran[name].refusal()
    assert all(part in line for part in parts), line
    assert not (tried.folder / "no").exists()


def test_a_folder_of_the_same_name_wins_and_is_named(tried: Tried) -> None:
    assert "acme/here: what is here on the disk is taken, not the hub's" in tried.ran["here"].out
    assert not [line for line in tried.hub.log if "acme/here" in line], "the hub is not asked"
    ran = tried.ran["revision of a path"]
    assert ran.status == 2 and "--revision main with acme/here, which is on this disk" in ran.err


@pytest.mark.parametrize("variables", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["unreachable", "offline"])
def test_without_a_network_what_was_fetched_before_is_taken(tried: Tried, variables: dict[str, str]) -> None:
    ran = results(FETCH, tried.folder, tried.hub.address, [["acme/one"], ["acme/other"]], **variables)
    assert (
        ran[0].status == 0 and "acme/one: the hub cannot be asked; what was fetched before is taken" in ran[0].out
    )
    assert "/snapshots/0123456789ab" in ran[0].out and ran[0].out.endswith("network.safetensors\n")
    line = ran[1].refusal()
    assert line.startswith("error: acme/other: not here, and the hub ") and "copy the files here" in line
