"""What may be chosen of a clip, beside how its pictures are made."""

from __future__ import annotations

from dataclasses import dataclass

SEGMENT = 250  # frames: as far as encoders put key frames apart, so that a segment costs nothing


@dataclass(frozen=True)
class ClipOptions:
    """start, end: seconds of the clip, None: its own. codec: FFmpeg's name of an encoder; quality: its CRF or the
    like, less is better; pixel_format: FFmpeg's name; None: chosen for the clip. segment: frames that are written
    together, which a killed run does again.
    """

    start: float | None = None
    end: float | None = None
    codec: str | None = None
    quality: int | None = None
    pixel_format: str | None = None
    segment: int = SEGMENT
