"""How many frames or pages a file holds: the first is read, and that there are others is said."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from PIL import Image

MOST = 1000  # that are counted
COUNTED_GIF = 8 << 20  # bytes of a GIF whose frames are counted: it takes all of the file
WORDS = {"TIFF": "pages", "MPO": "pictures"}


def frames_note(image: Image.Image, path: Path) -> list[str]:
    """A note where a file holds more than its first frame, else none. image: opened for this alone."""
    count = 1
    with suppress(Exception):  # the first one may be whole, whatever comes after it
        if image.format == "GIF" and path.stat().st_size > COUNTED_GIF:
            return ["the first of several frames"] if getattr(image, "is_animated", False) else []
        if image.format != "TIFF":
            count = getattr(image, "n_frames", 1)
        else:  # a page is a place in the file, so that a small file may have any number
            while count <= MOST:
                image.seek(count)
                count += 1
    some = f"more than {MOST}" if count > MOST else count
    return [f"1 of {some} {WORDS.get(image.format or '', 'frames')}"] if count > 1 else []
