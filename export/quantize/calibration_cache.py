"""A cache of calibrations: a model's own is found by what the manifests state, and nothing else is read."""

from __future__ import annotations

import sys
from pathlib import Path

from passionsr_trt.engines.bundle.manifest import MANIFEST
from passionsr_trt.engines.bundle.records import read_object
from passionsr_trt.engines.common.errors import UserError, printable
from passionsr_trt.export.quantize.calibration import KIND, Calibration


def find_calibration(cache: Path, model_digest: str) -> Calibration:
    """The one calibration of a model in the cache; where there are several, the caller must choose.

    A folder that cannot be read is passed over, and told where it may have been the one.
    """
    found = {}
    for path in sorted(cache.glob(f"*/{MANIFEST}")):
        try:
            if may_be_of(path, model_digest):
                found[path.parent] = Calibration.load(path.parent)
        except UserError as error:
            print(printable(f"passed over: {error}"), file=sys.stderr)
    if not found:
        raise UserError(f"{cache}: no calibration of this model", "", "run `passionsr-trt calibrate` first")
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UserError(f"{cache}: {len(found)} calibrations of this model", f"choose: --calibration ({names})")
    return next(iter(found.values()))


def may_be_of(manifest: Path, model_digest: str) -> bool:
    """Can a manifest be that of a calibration of this model? True too where it does not say.

    UserError where it is no JSON.
    """
    try:
        stated = read_object(manifest, "the manifest of a calibration")
    except FileNotFoundError:
        return False
    model = stated.get("model_digest")
    return stated.get("kind", KIND) == KIND and (model == model_digest or not isinstance(model, str))
