"""Paths that are no plain files, and names that are hard to print or to write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.hostile.bench import Bench, difference, pattern
from tests.hostile.harness import NOTES, Case, Outcome, Trial, in_process

KIND = "names"
Place = Callable[[Path], None]  # puts something hostile at a path


def cases() -> Iterator[Case]:
    yield from things()
    yield from odd_names()
    yield from folders()
    yield from outputs()
    yield from trees()


def things() -> Iterator[Case]:
    """What is no file, given by its name beside two good pictures, and as one of a folder's."""
    for name, place in THINGS.items():
        yield Case(f"{name} by name", KIND, partial(_beside, place, False))
        yield Case(f"{name} in a folder", KIND, partial(_beside, place, True))


def _link(target: str, path: Path) -> None:
    path.symlink_to(target)


def _locked(path: Path) -> None:
    pattern().save(path)
    path.chmod(0)


THINGS: dict[str, Place] = {
    "folder": lambda path: path.mkdir(),
    "FIFO": lambda path: os.mkfifo(path),
    "link to itself": partial(_link, "thing.png"),
    "dangling link": partial(_link, "nowhere.png"),
    "link to a folder": partial(_link, "."),
    "link to /dev/zero": partial(_link, "/dev/zero"),
    "link to /dev/null": partial(_link, "/dev/null"),
    "link to a FIFO": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe"))[0],
    "link to memory": partial(_link, "/proc/self/mem"),
}
if hasattr(os, "geteuid") and os.geteuid() != 0:
    THINGS["unreadable file"] = _locked


def _beside(place: Place, as_folder: bool, folder: Path, bench: Bench) -> Trial:
    given = folder / "in"
    given.mkdir()
    for name in ("a good.png", "z good.png"):
        pattern().save(given / name)
    place(given / "thing.png")
    words = ["in"] if as_folder else ["in/a good.png", "in/thing.png", "in/z good.png"]
    must = ("out/a good.png", "out/z good.png")
    argv = ["infer", *words, "-o", "out", "--engines", str(bench.int8)]
    # a folder given among pictures holds none: the command line itself is wrong, a refusal loses nothing
    lost = () if place is THINGS["folder"] or place is THINGS["link to a folder"] else must
    return Trial(argv, None, must=must if as_folder else lost, warm=True)


def odd_names() -> Iterator[Case]:
    """Good pictures of odd names are enlarged, bad ones are told of in one line."""
    for label, stem in STEMS.items():
        for damaged in (False, True):
            name = f"{label}, damaged" if damaged else label
            yield Case(name, KIND, partial(_named, stem, damaged))


STEMS = {
    "newline": "a\nerror: forged",
    "carriage return": "a\rb",
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;title\x07",
    "clear screen": "\x1b[2J\x1b[H",
    "C1 control": "a\x9b31mb",
    "bell and delete": "\x07\x7f",
    "right to left": "\u202egnp.a",
    "line separator": "a\u2028b\x85c",
    "no UTF-8": os.fsdecode(b"\xff\xfe"),
    "emoji": "🦊",
    "spaces": "  a  ",
    "dash": "--seed",
    "glob": "*[a]?",
    "percent": "%s%n{0}",
    "quotes": "'\"`$(touch x)",
    "dots": "..a..b..",
    "hidden": ".hidden",
    "backslash": "a\\b",
    "251 bytes": "a" * 251,
    "249 bytes": "ü" * 124 + "a",
    "ends in a dot": "a.",
    "Hebrew": "תמונה",
    "combining": "e\u0301",
}


def _named(stem: str, damaged: bool, folder: Path, bench: Bench) -> Trial:
    given = folder / "in"
    given.mkdir()
    path = given / f"{stem}.png"
    pattern().save(path)
    if damaged:
        path.write_bytes(path.read_bytes()[:100])
    pattern().save(given / "a good.png")
    found = folder / "out" / path.name
    argv = ["infer", "in/a good.png", f"in/{path.name}", "-o", "out", "--engines", str(bench.int8)]
    must = ("out/a good.png",)
    return Trial(
        argv, not damaged, lambda _outcome: difference(found, folder / must[0]), must=must, warm=True,
        may=("out", f"out/{path.name}"),
    )  # fmt: skip


def folders() -> Iterator[Case]:
    """Names that lead nowhere, too long or too deep; twins."""
    accepted = {"the same twice": True, "the same by two names": True, "dot": True}
    long, deep = "x" * 300 + ".png", "/".join(["d"] * 3000) + "/x.png"
    for label, words in {
        "missing": ["nothing.png"], "long": [long], "deep": [deep], "empty": [""], "dot": ["."],
        "under a file": ["in/a.png/b.png"], "long folder": ["x" * 300], "the root's null": ["/dev/null"],
        "the same twice": ["in/a.png", "in/a.png"], "the same by two names": ["in/a.png", "in/../in/a.png"],
        "only a suffix": ["in/.png"],
    }.items():  # fmt: skip
        yield Case(f"given {label}", KIND, partial(_given, words, accepted.get(label, False)))


def _given(words: list[str], accept: bool | None, folder: Path, bench: Bench) -> Trial:
    (folder / "in").mkdir()
    pattern().save(folder / "in" / "a.png")
    argv = ["infer", *words, "-o", "out", "--engines", str(bench.int8)]
    return Trial(argv, accept, warm=True)


def outputs() -> Iterator[Case]:
    """-o of every badness, for one picture and for two."""
    values = {
        "empty": "", "dot": ".", "dots": "..", "a file": "in/a.png", "a text": "text",
        "under a file": "in/a.png/out",
        "long": "x" * 300, "long png": "x" * 300 + ".png", "bmp": "out.bmp", "suffix only": ".png",
        "null": "/dev/null",
        "null png": "/dev/null.png/x", "proc": "/proc/nowhere", "sys": "/sys/x.png",
        "folder named png": "folder.png",
        "newline": "out\nput", "escape": "\x1b[31mout", "loop": "loop", "loop png": "loop.png", "dangling": "gone",
        "dangling png": "gone.png", "FIFO": "pipe", "FIFO png": "pipe.png", "input folder": "in", "slash": "out/",
        "png slash": "out.png/",
    }  # fmt: skip
    for label, value in values.items():
        for count in (1, 2):
            yield Case(f"-o {label}, {count}", KIND, partial(_output, value, count))
    for limit in (1, 2):
        yield Case(f"webp too wide {limit}", KIND, partial(_wide, limit == 2))


def _output(value: str, count: int, folder: Path, bench: Bench) -> Trial:
    (folder / "in").mkdir()
    (folder / "text").write_text("mine")
    (folder / "folder.png").mkdir()
    for name in ("loop", "loop.png"):
        (folder / name).symlink_to(name)
    for name in ("gone", "gone.png"):
        (folder / name).symlink_to("nowhere/at all")
    for name in ("pipe", "pipe.png"):
        os.mkfifo(folder / name)
    for name in ("a.png", "b.png")[:count]:
        pattern().save(folder / "in" / name)
    before = (folder / "in" / "a.png").read_bytes()

    def untouched(_outcome: object) -> str:
        written = folder / value / "a.png"
        if value == "":
            return "an empty -o wrote somewhere"
        if (folder / "in" / "a.png").read_bytes() != before:
            return "the input was overwritten"
        if (folder / "text").read_text() != "mine":
            return "a file of another kind was overwritten"
        return "" if written.is_file() or count == 1 else f"{written} is not there"

    argv = ["infer", *(["in/a.png", "in/b.png"][:count]), "-o", value, "--engines", str(bench.int8)]
    top = value.strip("/").split("/")[0]
    may = ("a.png", "b.png", NOTES) if value in (".", "in", "..") else (top or "none",)
    if value == "..":
        argv[-1:-1] = []
        return Trial([*argv, "--resume"], None, warm=True, may=may)
    return Trial(argv, None, untouched, may=(*may, "nowhere", "folder.png"), warm=True)


def _wide(first: bool, folder: Path, bench: Bench) -> Trial:
    """A result of over 16,383 pixels a side is no WebP; the other picture is written all the same."""
    (folder / "in").mkdir()
    pattern((8208, 8)).convert("L").save(folder / "in" / "wide.png")
    pattern().save(folder / "in" / "a good.png")
    words = ["in/a good.png", "in/wide.png"]
    argv = ["infer", *(words[::-1] if first else words), "-o", "out", "--engines", str(bench.int8)]
    return Trial([*argv, "--format", "webp"], False, must=("out/a good.webp",), warm=True, seconds=60)


def trees() -> Iterator[Case]:
    """Folders of folders: every picture has an output of its own, nothing that was given changes."""
    for label, names in TREES.items():
        for output in ("out", "in/out", "in"):
            yield Case(f"tree {label} → {output}", KIND, partial(_tree, names, output))


# names in the folder; one that ends in `/` is empty, `→` a link
TREES: dict[str, tuple[str, ...]] = {
    "plain": ("a.jpg", "b/a.jpg", "b/c/a.jpg"),
    "twins": ("a.jpg", "a.png", "a.webp", "b/a.jpg", "b/a.png"),
    "twin of a twin": ("a.jpg", "a.png", "a.jpg.png"),
    "case": ("a.jpg", "A.jpg", "B/a.jpg", "b/a.jpg", "ß.jpg", "SS.jpg"),
    "ends": ("a .jpg", "a..jpg", "a.jpg ", "b /c.jpg", "d./e.jpg"),
    "scripts": ("תמונה.jpg", "\u202egpj.jpg", "e\u0301.jpg", "\xe9.jpg", "日本/写真.jpg"),
    "hidden": ("a.jpg", ".b.jpg", ".c/d.jpg"),
    "links to folders": ("a.jpg", "b/c.jpg", "b/up → ..", "b/self → .", "away → /", "c.jpg → b"),
    "links to files": ("a.jpg", "b.jpg → a.jpg", "c.jpg → nowhere", "d.jpg → d.jpg"),
    "a folder named as a picture": ("a.jpg", "b.jpg/c.jpg", "d.png/"),
    "a folder in an output's place": ("a.jpg", "a.png/b.jpg"),
}


def _tree(names: tuple[str, ...], output: str, folder: Path, bench: Bench) -> Trial:
    for name in names:
        path, _, link = name.partition(" → ")
        place = folder / "in" / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if link:
            place.symlink_to(link)
        elif not path.endswith("/"):
            pattern().save(place, format={".png": "PNG", ".webp": "WEBP"}.get(place.suffix, "JPEG"))
    plain = [name for name in names if "→" not in name and not name.endswith("/")]
    before = {name: (folder / "in" / name).read_bytes() for name in plain}
    seen = [name for name in plain if not name.startswith(".")]

    def changed() -> list[str]:
        return [name for name in plain if (folder / "in" / name).read_bytes() != before[name]]

    def run(where: Path) -> Outcome:
        outcome = in_process(Trial(argv, warm=True, seconds=30), where)
        return replace(outcome, status=0) if changed() else outcome  # to be judged, whatever it said

    def right(outcome: Outcome) -> str:
        wanted = len(seen) + ("b.jpg → a.jpg" in names)
        if changed():
            return f"changed: {changed()}"
        if "→" in "".join(names) and "left out" not in outcome.err:
            return "links are passed over in silence"
        told = f"{wanted} of {wanted} images written"
        return "" if told in outcome.out else f"expected {told}, got {outcome.out[-100:]}"

    argv = ["infer", "in", "-o", output, "--engines", str(bench.int8)]
    # what is refused is a line each: a twin's twin, a picture over itself, a folder in an output's place
    clear = output != "in" and "a.jpg.png" not in names and "a.png/b.jpg" not in names
    return Trial(argv, True if clear else None, right, errors=None, may=("out", "in"), run=run, seconds=30)
