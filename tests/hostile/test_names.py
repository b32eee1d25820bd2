"""Paths that are no plain files, and names that are hard to print or to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.hostile.bench import difference, pattern
from tests.hostile.trial import NOTES, Trial

Place = Callable[[Path], None]  # puts something hostile at a path


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


@pytest.mark.parametrize("as_folder", (False, True))
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_lies_between_good_pictures(trial: Trial, thing: str, as_folder: bool) -> None:
    """Given by its name, or as one of a folder's."""
    given = trial.folder / "in"
    given.mkdir()
    for name in ("a good.png", "z good.png"):
        pattern().save(given / name)
    THINGS[thing](given / "thing.png")
    words = ["in"] if as_folder else ["in/a good.png", "in/thing.png", "in/z good.png"]
    # a folder given among pictures holds none: the command line itself is wrong, a refusal loses nothing
    lost = not as_folder and thing in ("folder", "link to a folder")
    trial.infer(*words, must=() if lost else ("out/a good.png", "out/z good.png"), warm=True)


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


@pytest.mark.parametrize("damaged", (False, True))
@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)
def test_good_pictures_of_odd_names_are_enlarged_and_bad_ones_told_of(
    trial: Trial, stem: str, damaged: bool
) -> None:
    given, out = trial.folder / "in", trial.folder / "out"
    given.mkdir()
    path = given / f"{stem}.png"
    pattern().save(path)
    if damaged:
        path.write_bytes(path.read_bytes()[:100])
    pattern().save(given / "a good.png")
    words = "in/a good.png", f"in/{path.name}"
    good = "out/a good.png"
    trial.infer(*words, accept=not damaged, must=(good,), warm=True, may=("out", f"out/{path.name}"))
    assert damaged or not difference(out / path.name, trial.folder / good)


# names that lead nowhere, too long or too deep; twins
GIVEN = {
    "missing": ["nothing.png"], "long": ["x" * 300 + ".png"], "deep": ["/".join(["d"] * 3000) + "/x.png"],
    "empty": [""], "dot": ["."], "under a file": ["in/a.png/b.png"], "long folder": ["x" * 300],
    "the root's null": ["/dev/null"], "the same twice": ["in/a.png", "in/a.png"],
    "the same by two names": ["in/a.png", "in/../in/a.png"], "only a suffix": ["in/.png"],
}  # fmt: skip


@pytest.mark.parametrize("label", GIVEN)
def test_what_is_given(trial: Trial, label: str) -> None:
    (trial.folder / "in").mkdir()
    pattern().save(trial.folder / "in" / "a.png")
    good = label in ("the same twice", "the same by two names", "dot")
    trial.infer(*GIVEN[label], accept=good, warm=True)


OUTPUTS = {
    "empty": "", "dot": ".", "dots": "..", "a file": "in/a.png", "a text": "text", "under a file": "in/a.png/out",
    "long": "x" * 300, "long png": "x" * 300 + ".png", "bmp": "out.bmp", "suffix only": ".png",
    "null": "/dev/null", "null png": "/dev/null.png/x", "proc": "/proc/nowhere", "sys": "/sys/x.png",
    "folder named png": "folder.png", "newline": "out\nput", "escape": "\x1b[31mout", "loop": "loop",
    "loop png": "loop.png", "dangling": "gone", "dangling png": "gone.png", "FIFO": "pipe", "FIFO png": "pipe.png",
    "input folder": "in", "slash": "out/", "png slash": "out.png/",
}  # fmt: skip


@pytest.mark.parametrize("count", (1, 2))
@pytest.mark.parametrize("value", OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_of_every_badness(trial: Trial, value: str, count: int) -> None:
    folder = trial.folder
    (folder / "in").mkdir()
    (folder / "text").write_text("mine")
    (folder / "folder.png").mkdir()
    for name in ("loop", "loop.png"):
        (folder / name).symlink_to(name)
    for name in ("gone", "gone.png"):
        (folder / name).symlink_to("nowhere/at all")
    for name in ("pipe", "pipe.png"):
        os.mkfifo(folder / name)
    names = ("a.png", "b.png")[:count]
    for name in names:
        pattern().save(folder / "in" / name)
    before = (folder / "in" / "a.png").read_bytes()
    top = value.strip("/").split("/")[0]
    may = ("a.png", "b.png", NOTES) if value in (".", "in", "..") else (top or "none",)
    words = [*(f"in/{name}" for name in names), *(["--resume"] if value == ".." else [])]
    outcome = trial.infer(*words, output=value, warm=True, may=(*may, "nowhere", "folder.png"))
    if outcome.status == 0 and value != "..":
        assert value != "", "an empty -o wrote somewhere"
        assert (folder / "in" / "a.png").read_bytes() == before
        assert (folder / "text").read_text() == "mine", "a file of another kind was overwritten"
        assert count == 1 or (folder / value / "a.png").is_file()


@pytest.mark.parametrize("first", (False, True))
def test_what_is_too_wide_for_webp_takes_no_other_picture_along(trial: Trial, first: bool) -> None:
    """A result of over 16,383 pixels a side is no WebP."""
    (trial.folder / "in").mkdir()
    pattern((8208, 8)).convert("L").save(trial.folder / "in" / "wide.png")
    pattern().save(trial.folder / "in" / "a good.png")
    words = ["in/a good.png", "in/wide.png"][:: -1 if first else 1]
    must = ("out/a good.webp",)
    trial.infer(*words, "--format", "webp", accept=False, must=must, warm=True, seconds=60)


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


@pytest.mark.parametrize("output", ("out", "in/out", "in"))
@pytest.mark.parametrize("names", TREES.values(), ids=TREES)
def test_every_picture_of_a_tree_has_an_output_of_its_own_and_none_changes(
    trial: Trial, names: tuple[str, ...], output: str
) -> None:
    given = trial.folder / "in"
    for name in names:
        path, _, link = name.partition(" → ")
        place = given / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if link:
            place.symlink_to(link)
        elif not path.endswith("/"):
            pattern().save(place, format={".png": "PNG", ".webp": "WEBP"}.get(place.suffix, "JPEG"))
    plain = [name for name in names if "→" not in name and not name.endswith("/")]
    before = {name: (given / name).read_bytes() for name in plain}
    # what is refused is a line each: a twin's twin, a picture over itself, a folder in an output's place
    clear = output != "in" and "a.jpg.png" not in names and "a.png/b.jpg" not in names
    outcome = trial.infer(
        "in", output=output, accept=clear or None, errors=None, may=("out", "in"), warm=True, seconds=30
    )
    assert {name: (given / name).read_bytes() for name in plain} == before
    if outcome.status == 0:
        assert "→" not in "".join(names) or "left out" in outcome.err, "links are passed over in silence"
        wanted = len([name for name in plain if not name.startswith(".")]) + ("b.jpg → a.jpg" in names)
        assert f"{wanted} of {wanted} images written" in outcome.out
