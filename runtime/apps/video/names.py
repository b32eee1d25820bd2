"""Which files are clips, and which file each becomes: beside itself, in a folder, or the one that is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.pictures.files import is_folder, suffix_of

WRITTEN = (".mkv", ".mp4", ".mov", ".m4v", ".webm")
READ = (
    *WRITTEN,
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m2v", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".ts"),
    *(".vob", ".wmv", ".y4m"),
)


def is_clip(path: Path) -> bool:
    """By its name; a folder is none."""
    return suffix_of(path.name) in READ and not is_folder(path)


def clips_of(given: Sequence[Path]) -> list[Path]:
    """All of it where it is clips, else nothing. UsageError where pictures stand beside clips."""
    clips = [path for path in given if is_clip(path)]
    if clips and len(clips) < len(given):
        other = next(path for path in given if path not in clips)
        raise UsageError(f"{other} beside clips", "expected clips alone", "run them apart")
    return clips


def no_clip(*fields: str) -> UsageError:
    """Of options of clips (`pixel_format`: --pixel-format), where pictures were given."""
    named = ", ".join(f"--{field.replace('_', '-')}" for field in fields)
    return UsageError(
        f"{named}: options of clips without a clip", f"expected a file named {', '.join(READ[:4])} or the like"
    )


def name_clips(clips: Sequence[Path], output: Path | None, suffix: str) -> dict[Path, Path]:
    """Clip → its output; suffix: `_x4`, of outputs that lie beside their clips. UsageError where two meet, or one
    would be written over a clip that was given.
    """
    unique = list(dict.fromkeys(clips))
    if output is not None and suffix_of(output.name) in READ and not is_folder(output):
        if suffix_of(output.name) not in WRITTEN:
            raise UsageError(f"{output}: cannot write {output.suffix}", f"expected {', '.join(WRITTEN)}")
        if len(unique) > 1:
            raise UsageError(f"{output}: one file for {len(unique)} clips", "expected a folder")
        pairs = {unique[0]: output}
    elif output is None:
        pairs = {clip: clip.with_name(f"{clip.stem}{suffix}{_ending(clip)}") for clip in unique}
    elif os.path.lexists(output) and not is_folder(output):
        raise UsageError(f"{output}: is no folder", f"expected one, or a name ending in {', '.join(WRITTEN)}")
    else:
        pairs = {clip: output / f"{clip.stem}{_ending(clip)}" for clip in unique}
    taken = {os.path.realpath(clip): clip for clip in unique}
    for clip, target in pairs.items():
        other = taken.setdefault(os.path.realpath(target), target)
        if other is not target:
            raise UsageError(f"{clip}: {target} would overwrite {other}", "expected another name; run them apart")
    return pairs


def _ending(clip: Path) -> str:
    """Of a clip's output: its own where that container is written, else Matroska, which holds everything."""
    return clip.suffix if suffix_of(clip.name) in WRITTEN else ".mkv"
