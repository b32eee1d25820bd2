"""infer on clips: which become what, which are there already, and how each went."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
from passionsr_trt.engines.common.errors import UsageError, printable
from passionsr_trt.engines.common.temporaries import sweep
from passionsr_trt.runtime.apps.infer import Recipe
from passionsr_trt.runtime.apps.notes import Notes, resumed
from passionsr_trt.runtime.apps.video.making import make_clip
from passionsr_trt.runtime.apps.video.names import name_clips
from passionsr_trt.runtime.apps.video.options import ClipOptions
from passionsr_trt.runtime.core.ordered import attempt

NOTHING: Any = None  # a clip is not read as a picture is


@dataclass(frozen=True)
class ClipsRequest:
    """clips: files; output: a folder, or a file for one clip; None: beside each, its name and `suffix` (None:
    `_x4` by the scale). streams: frames at once on a CPU.
    """

    clips: list[Path]
    output: Path | None
    recipe: Recipe
    wanted: ClipOptions
    threads: int = 0
    streams: int = 1
    resume: bool = False
    suffix: str | None = None


def enlarge_clips(request: ClipsRequest) -> int:
    """Make the clips that were asked for; 0 where all are there and nothing in them was broken, else 1."""
    recipe, wanted = request.recipe, request.wanted
    if request.output is not None and request.suffix is not None:
        raise UsageError(f"--suffix {request.suffix} with -o", "expected one of them")
    if recipe.form is not None:
        raise UsageError(f"--format {recipe.form} of a clip", "expected -o NAME.mkv, .mp4, .mov or .webm")
    if wanted.end is not None and wanted.end <= (wanted.start or 0):
        raise UsageError(f"--end {wanted.end:g}", f"expected more than --start {wanted.start or 0:g}")
    bundle = recipe.bundle()
    suffix = f"_x{recipe.enlarges(bundle):g}" if request.suffix is None else request.suffix
    pairs = name_clips(request.clips, request.output, suffix)
    decisive = [recipe.configuration(bundle), asdict(wanted), av.__version__]
    config = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
    into_folder = request.output is not None and request.output not in pairs.values()
    notes = {
        target.parent: Notes(target.parent, config, request.resume or into_folder) for target in pairs.values()
    }
    if request.resume:
        pairs = _waiting(pairs, notes)
    if not pairs:
        return 0
    broken, failed = 0, []
    with closing(recipe.open(request.threads, request.streams)) as chain:
        for source, target in pairs.items():
            note = notes[target.parent]
            sweep(target.parent)
            note.reading(lambda _source: NOTHING, source)
            found = attempt(
                lambda source=source, target=target: make_clip(  # type: ignore[misc]
                    chain, source, target, recipe.options, wanted, config, request.streams
                )
            )
            if isinstance(found, UsageError):
                raise found
            if isinstance(found, Exception):
                failed.append(source)
                print(
                    printable(f"error: {str(found) or 'out of memory; a smaller --tile needs less'}"),
                    file=sys.stderr,
                )
                continue
            broken += found
            note.note(source, target)
    for note in notes.values():
        note.close()
    if len(failed) == len(pairs):
        print("no clip written")
        return 1
    where = next(iter(pairs.values())) if len(pairs) == 1 else request.output or "beside their originals"
    damage = f", {broken} broken packets or frames in them" if broken else ""
    print(printable(f"{len(pairs) - len(failed)} of {len(pairs)} clips written to {where}{damage}"))
    return 1 if failed or broken else 0


def _waiting(pairs: dict[Path, Path], notes: dict[Path, Notes]) -> dict[Path, Path]:
    """Those that are not there yet, and a line of what is."""
    left: dict[Path, Path] = {}
    for folder, note in notes.items():
        here = {source: target for source, target in pairs.items() if target.parent == folder}
        some, why = note.waiting(here)
        left |= some
        for line in resumed(len(here), len(some), why):
            print(line)
    return {source: target for source, target in pairs.items() if source in left}
