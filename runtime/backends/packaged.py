"""Networks that come with the package, exported and ready: what is taken where no engines are named.

Each is an ONNX bundle, once for CPUs whose INT8 is exact at full range and once for those that need weight codes
within ±63. Its OpenVINO engines are built at the first run and kept in the user's cache folder, under a name by
all that decides them. They are checked like any others; what is damaged is built again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.backends import OPENVINO
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle, load_intact
from passionsr_trt.engines.bundle.formats import FULL_RANGE
from passionsr_trt.engines.bundle.manifest import MANIFEST, sha256
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.engines.common.user_cache import VARIABLE, cache_folder, one_at_a_time
from passionsr_trt.engines.common.writing import check_writable

NETWORKS = Path(__file__).parents[1] / "networks"
FULL, HALF = "int8", "int8-63"  # bundles of one network: which the CPU at hand can compute exactly decides


@dataclass(frozen=True)
class Packaged:
    """name: as --engines takes it; title: in manifests; purpose: what it is for; licence: SPDX's word, its text
    lies in `licence_file`; source: whose it is.
    """

    name: str
    title: str
    purpose: str
    licence: str
    licence_file: str
    source: str

    @property
    def folder(self) -> Path:
        return NETWORKS / self.name

    def bundle(self, full_range: bool = True) -> OnnxBundle:
        """The exported network; full_range: for CPUs whose INT8 is exact with weight codes up to ±127."""
        return OnnxBundle.load(self.folder / (FULL if full_range else HALF))

    def fitting(self) -> OnnxBundle:
        """The one that this CPU computes exactly."""
        from passionsr_trt.engines.openvino.compile import openvino_int8_exact

        return self.bundle(openvino_int8_exact(FULL_RANGE))

    def engines(self) -> Path:
        """A folder of engines for this CPU and these versions, built now where there is none.

        Of several processes one builds, the others wait. UserError where the cache folder cannot be written.
        """
        bundle = self.fitting()
        try:
            folder = cache_folder("engines") / f"{self.name}-{_decisive(bundle)}"
            if load_intact(EngineBundle, folder) is not None:
                return folder
            folder.parent.mkdir(parents=True, exist_ok=True)  # and kept, as two that start at once need it
            check_writable(folder.parent)
        except (OSError, UserError) as error:
            told = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                told = f"{error.filename}: {error.strerror}"
            raise UserError(
                f"{self.name}: no place for its engines ({told.partition(';')[0]})",
                f"expected ${VARIABLE} to name a writable folder",
                f"such as {VARIABLE}=/tmp/passionsr-trt",
            ) from None
        with one_at_a_time(folder, "building"):
            if load_intact(EngineBundle, folder) is None:
                shutil.rmtree(folder, ignore_errors=True)  # a ruin, which would not be replaced
                _build(bundle, folder)
        return folder


REALESR_GENERAL = Packaged(
    name="realesr-general-x4",
    title="Real-ESRGAN general ×4",
    purpose="photos and other pictures; small and fast, removes noise and JPEG's traces",
    licence="BSD-3-Clause",
    licence_file="LICENSE.realesrgan",
    source="realesr-general-x4v3 of github.com/xinntao/Real-ESRGAN",
)
PACKAGED = (REALESR_GENERAL,)
DEFAULT = Path(REALESR_GENERAL.name)  # where nothing is named


def packaged(given: Path) -> Packaged | None:
    """The packaged network that --engines names; a folder of that name comes first."""
    return None if given.exists() else next((one for one in PACKAGED if given == Path(one.name)), None)


def located(given: Path, onnx: bool = False) -> Path:
    """The folder that --engines means: itself, or a packaged network's engines, its ONNX bundle with `onnx`.

    UserError for a mere name that is neither.
    """
    network = packaged(given)
    if network is not None:
        return network.bundle().folder if onnx else network.engines()
    if given.name == str(given) and given.name and not given.exists():
        names = " or ".join(one.name for one in PACKAGED)
        raise UserError(f"--engines {given}: no such folder", f"expected one made by build-engines, or {names}")
    return given


def listed() -> Iterator[str]:
    """Lines of what is packaged: name, what it is, scale, size, licence."""
    for one in PACKAGED:
        bundle = one.bundle()
        size = sum(entry["size"] for part in bundle.parts for entry in bundle.listed(part).values())
        yield f"{one.name}  {bundle.title}: {one.purpose}"
        yield f"  enlarges {bundle.model.upscale} times, {size / 1e6:.1f} MB, {one.licence}; {one.source}"


def _build(bundle: OnnxBundle, folder: Path) -> None:
    """What builds is loaded for it alone: what runs engines has no onnx-ir."""
    from passionsr_trt.engines.build import build_engines

    print(printable(f"{bundle.title}: engines for this CPU are built, once, in {folder}"), file=sys.stderr)
    with redirect_stdout(sys.stderr):  # the proof's figures are no result of a run
        build_engines(bundle, folder, OPENVINO, OPENVINO.builder_for([bundle]))


def _decisive(bundle: OnnxBundle) -> str:
    """A digest of what decides the engines: the bundle, the versions, the processor as OpenVINO sees it."""
    from passionsr_trt.engines.openvino.cache import here
    from passionsr_trt.engines.openvino.revision import REVISION

    version = importlib.metadata.version("passionsr-trt")
    decisive = [sha256(bundle.folder / MANIFEST), version, REVISION, here()]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
