"""What a file says beside its pixels, as far as it stays true of the result: for whoever writes it.

EXIF goes along byte for byte but for what the result says itself, since a rewriter would lose texts and notes. A
directory is a count, entries of 12 bytes and the next directory's place; values stand elsewhere by their place. An
entry goes by moving those behind it up, so that no place changes.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from passionsr_trt.engines.pictures.pixels import GAMMA, GAMMAS, is_srgb, significant_gamma
from PIL import Image

EXIF_HEADER = b"Exif\x00\x00"
MOST_EXIF = 65_533  # bytes: what a JPEG takes
ENTRY = 12
WIDTH, HEIGHT, ORIENTATION, INNER = 0x0100, 0x0101, 0x0112, 0x8769
INNER_WIDTH, INNER_HEIGHT = 0xA002, 0xA003


def without_geometry(exif: bytes) -> bytes | None:
    """EXIF without orientation, sizes and thumbnail, ready for Pillow's `exif=`; None where nothing is left.

    ValueError where it is damaged, or longer than a JPEG takes.
    """
    data = bytearray(exif.removeprefix(EXIF_HEADER))
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("no EXIF")
    if len(data) + len(EXIF_HEADER) > MOST_EXIF:
        raise ValueError("too long")
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        kept = _drop(data, order, start, {WIDTH, HEIGHT, ORIENTATION}, last=True)
        if INNER in kept:
            _drop(data, order, kept[INNER], {INNER_WIDTH, INNER_HEIGHT}, last=False)
    except struct.error:
        raise ValueError("truncated") from None
    return EXIF_HEADER + bytes(data) if kept else None


def _drop(data: bytearray, order: str, start: int, unwanted: set[int], last: bool) -> dict[int, int]:
    """Take entries out of the directory at `start`; tag → value or its place of those that stay.

    last: the directories behind it (the thumbnail's) are cut off.
    """
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = start + 2 + count * ENTRY
    (following,) = struct.unpack_from(f"{order}I", data, end)
    kept, entries = {}, b""
    for place in range(start + 2, end, ENTRY):
        tag, _kind, _length, value = struct.unpack_from(f"{order}HHII", data, place)
        if tag not in unwanted:
            kept[tag] = value
            entries += bytes(data[place : place + ENTRY])
    rest = struct.pack(f"{order}H", len(kept)) + entries + struct.pack(f"{order}I", 0 if last else following)
    data[start : end + 4] = rest.ljust(end + 4 - start, b"\x00")
    return kept


WITH_EXIF = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "JXL")  # a TIFF's tags describe its own pixels
MOST_TEXT = 1 << 20  # bytes, of texts and of XMP: what a PNG reader takes
TAGS = {270: "description", 315: "artist", 33432: "copyright", 34665: "EXIF", 33723: "IPTC"}  # of a TIFF
KINDS = {
    "transparency": (int, bytes, tuple), "gamma": (float,), "srgb": (int,), "chromaticity": (tuple,),
    "icc_profile": (bytes,), "dpi": (tuple,), "cicp": (bytes,),
}  # fmt: skip
SRGB_CODED = b"\x01\x0d\x00\x01"  # a cICP of sRGB's primaries and curve
OWN_NAMES = {*KINDS, "exif", "xmp", "interlace"}  # a text of such a name is what no Pillow gets over
IPTC = 0x0404  # of Photoshop's blocks in a JPEG
PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # sRGB's white, red, green, blue
ATTRIBUTES = rb"(?:tiff:(?:Orientation|ImageWidth|ImageLength)|exif:Pixel[XY]Dimension)"
GEOMETRY = re.compile(rb"\s%s\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')|<(%s)>[^<]*</\1>" % (ATTRIBUTES, ATTRIBUTES))


@dataclass
class Metadata:
    """exif: ready for Pillow; xmp: a packet; dpi: across and down; texts: PNG's, by keyword; chunks: PNG's of
    colour.

    What is left out is noted where it is read; what a format cannot hold, where it is written.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def wide(self) -> bool:
        """Are its colours of other primaries or another curve than sRGB's, by a PNG's cICP or cHRM?"""
        if any(name == b"cICP" and data != SRGB_CODED for name, data in self.chunks):
            return True
        stated = [struct.unpack(">8I", data) for name, data in self.chunks if name == b"cHRM"]
        return any(abs(a / 1e5 - b) > 0.01 for points in stated for a, b in zip(points, PRIMARIES, strict=True))


def drop_strangers(image: Image.Image) -> None:
    """Pillow keeps a PNG's texts beside what it found itself: one under such a name is no such thing."""
    for name, kinds in KINDS.items():
        if name in image.info and not isinstance(image.info[name], kinds):
            del image.info[name]


def metadata_of(image: Image.Image, notes: list[str]) -> Metadata:
    """Of an image that is loaded: some of a PNG's stands behind its pixels."""
    metadata = Metadata(dpi=_dpi(image), chunks=_colour_chunks(image, notes))
    if image.format in WITH_EXIF:
        metadata.exif = _exif(image.info, notes)
    metadata.xmp = _xmp(image.info, notes)
    metadata.texts = _texts(image, notes)
    if left_out := _left_out(image):
        notes.append(f"{', '.join(left_out)} left out")
    return metadata


def _left_out(image: Image.Image) -> list[str]:
    """What a reader would miss, by name: blocks that nobody here takes apart."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        names = [name for tag, name in TAGS.items() if tag in tags]
        channels = tags.get(277, 1)
        more = isinstance(channels, int) and channels > len(image.getbands()) and 338 in tags
        return [*names, "further channels"] if more else names
    blocks = image.info.get("photoshop")
    return ["IPTC"] if isinstance(blocks, dict) and IPTC in blocks else []


def _exif(info: dict[str | tuple[int, int], object], notes: list[str]) -> bytes | None:
    """What goes along of a file's EXIF; what cannot is noted."""
    exif, raw = info.get("exif"), info.get("Raw profile type exif")
    try:
        if not exif and isinstance(raw, str):  # as ImageMagick writes it
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        return without_geometry(exif) if isinstance(exif, bytes) and exif else None
    except ValueError as error:
        notes.append(f"EXIF left out ({error})")
        return None


def _xmp(info: dict[str | tuple[int, int], object], notes: list[str]) -> bytes | None:
    """The packet without orientation and sizes, which are the result's own."""
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    packet = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(packet, bytes) or not packet.strip(b"\x00 \t\r\n"):
        return None
    if len(packet) > MOST_TEXT:
        notes.append("XMP of more than 1 MB left out")
        return None
    return GEOMETRY.sub(b"", packet)


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch as they are, where a JPEG can say them: they are the print's, not the pixels'."""
    if image.format == "TIFF" and 282 not in image.tag_v2:  # type: ignore[attr-defined]
        return None  # Pillow says 1 where the file says nothing
    try:
        across, down = (float(side) for side in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if all(math.isfinite(side) and 1 <= side <= 65535 for side in (across, down)) else None


def _texts(image: Image.Image, notes: list[str]) -> dict[str, str]:
    """PNG's texts, and the comment of others under PNG's word for it."""
    texts = dict(getattr(image, "text", None) or {})
    texts.pop("XML:com.adobe.xmp", None)
    profiles = [key for key in texts if key.startswith("Raw profile type ")]
    for key in profiles:
        del texts[key]
    if others := [key[17:] for key in profiles if key[17:] != "exif"]:
        notes.append(f"raw profile left out: {', '.join(others)[:40]}")
    for key in set(texts) & OWN_NAMES:
        del texts[key]
        notes.append(f"text named {key} left out")
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment:
        try:
            texts["Comment"] = comment.decode()
        except UnicodeDecodeError:
            texts["Comment"] = comment.decode("latin-1")
    length = sum(len(key) + len(text.encode("utf-8", "replace")) for key, text in texts.items())
    if length > MOST_TEXT:
        notes.append(f"texts of {length / 1e6:.1f} MB left out")
        return {}
    kept = {key: text for key, text in texts.items() if 0 < len(key) < 80}
    if lost := len(texts) - len(kept):
        notes.append(f"{lost} text{'s' * (lost > 1)} left out: a name has 1 to 79 characters")
    return kept


def _colour_chunks(image: Image.Image, notes: list[str]) -> list[tuple[bytes, bytes]]:
    """Of a PNG: its cICP, which overrules all; without a profile its sRGB, or its gAMA and cHRM.

    A significant gAMA is converted.
    """
    info = image.info
    if image.format != "PNG":
        return []
    if "cicp" in info:
        return [(b"cICP", info["cicp"])]
    if info.get("icc_profile"):
        return []
    if is_srgb(info):
        return [(b"sRGB", bytes([info["srgb"]]))]
    if "srgb" in info:
        notes.append("a damaged sRGB left out")
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    converted = significant_gamma(info)
    if converted is not None:
        notes.append(f"gAMA of {converted:g} converted to sRGB")
    elif gamma is not None and not GAMMAS[0] <= gamma <= GAMMAS[1]:
        notes.append(f"gAMA of {gamma:g} left out")
        gamma = None
    if primaries is not None and not _sound(primaries):
        notes.append("a damaged cHRM left out")
        primaries = None
    chunks = []
    if gamma is not None and (converted is None or primaries is not None):
        chunks.append((b"gAMA", struct.pack(">I", round((GAMMA if converted else gamma) * 1e5))))
    if primaries is not None:
        chunks.append((b"cHRM", struct.pack(">8I", *(round(value * 1e5) for value in primaries))))
    return chunks


def coding_of(path: Path) -> bytes | None:
    """What a PNG's cICP says (primaries, curve, matrix, range), which Pillow passes over; None where it is unsound
    or missing.
    """
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            (length,) = struct.unpack(">I", head[:4])
            if head[4:] == b"cICP":
                data = file.read(4)
                return data if length == 4 and data[2:3] == b"\0" else None
            file.seek(length + 4, 1)
    return None


def _sound(primaries: tuple[float, ...]) -> bool:
    """Eight numbers that may be points of a colour diagram."""
    return len(primaries) == 8 and max(primaries) <= 1 and min(primaries[1::2]) > 0
