"""batch without Ray: what is to be done, under which names, and what counts as done."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.pictures.files import LeftOut

pytest.importorskip("fsspec", reason="needs fsspec (extra [batch])")
from passionsr_trt.runtime.apps.batch.cluster import Starts
from passionsr_trt.runtime.apps.batch.inputs import Item, Refused, pictures, safe_key
from passionsr_trt.runtime.apps.batch.ledger import OWN, Entry, Ledger, Place, Stamp, local_stamp, parse, verdict
from passionsr_trt.runtime.apps.batch.worker import Outcome, Settings, Worker
from passionsr_trt.runtime.apps.infer import Recipe
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.picture_cli import add_batch

from tests.conftest import Built
from tests.pictures import noise

LINE = Entry("a.png", "c", 5, "then", "1" * 64, 9, "later", "2" * 64)


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def keys(
    inputs: list[str],
    output: Path,
    lists: list[Path] | None = None,
    kind: str | None = "png",
    left: LeftOut | None = None,
) -> list[str]:
    found = pictures(inputs, lists or [], str(output), kind, left or LeftOut())
    return [item.key for item in found if isinstance(item, Item)]


def test_folders_keep_their_structure_and_names_never_meet(tmp_path: Path) -> None:
    source = put(
        tmp_path / "in", "a.png", "a.jpg", "A.PNG", "sub/a.png", "sub/deep/b.webp", ".hidden/c.png", "n.txt"
    )
    expected = ["A.PNG.png", "a.jpg.png", "a.png", "sub/a.png", "sub/deep/b.webp.png"]
    assert keys([str(source)], tmp_path / "out") == expected
    assert keys([f"file://{source}"], tmp_path / "out") == expected
    assert keys([str(source)], source / "sub") == expected[:3], "the output folder is no input"
    put(source, "a.jpg.png")
    found = pictures([str(source)], [], "out", "png", LeftOut())
    refused = [item for item in found if isinstance(item, Refused)]
    assert [Path(item.source).name for item in refused] == ["a.jpg"] and "would become a.jpg.png" in refused[
        0
    ].reason


def test_a_file_keeps_its_format_unless_one_is_named(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.JPG", "a.bmp", "a.png", "b.jfif", "c.webp")
    own = ["a.JPG", "a.bmp.png", "a.png", "b.jfif.jpg", "c.webp"]
    assert keys([str(source)], tmp_path / "out", kind=None) == own
    assert keys([f"{source}/a.JPG"], tmp_path / "out", kind=None) == ["a.JPG"]
    assert keys([str(source)], tmp_path / "out", kind="jpg") == [
        f"{name}.jpg" for name in sorted(("a.JPG", "a.bmp", "a.png", "b.jfif", "c.webp"))
    ]
    parser = argparse.ArgumentParser()
    add_batch(parser)
    assert parser.parse_args(["in", "out"]).format is None, "as of infer"


@pytest.mark.parametrize("store", [False, True])
def test_what_infer_made_beside_its_pictures_is_no_input(tmp_path: Path, store: bool) -> None:
    source = put(tmp_path / "in", "a.jpg", "a_x4.jpg", "b_x4.jpg", "sub/a_x2.png", "sub/a.png")
    left = LeftOut()
    url = "memory://batch-beside" if store else str(source)
    for path in source.rglob("*.*"):
        if store:
            Place(url).write(path.relative_to(source).as_posix(), b"x")
    assert keys([url], tmp_path / "out", kind=None, left=left) == ["a.jpg", "b_x4.jpg", "sub/a.png"]
    assert left.line() == "2 files left out: 2 named as enlarged ones are"


def test_what_is_noted_in_a_folder_is_no_input(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.jpg", "sub/a-large.jpg")
    made = local_stamp(source / "sub" / "a-large.jpg")
    assert made is not None
    Ledger(Place(str(source))).write([Entry("sub/a-large.jpg", "c", 1, "then", "", made.size, made.mark, "")])
    left = LeftOut()
    assert keys([str(source)], tmp_path / "out", left=left) == ["a.jpg.png"]
    assert left.line() == "1 file left out: 1 that an earlier run made"
    (source / "sub" / "a-large.jpg").write_bytes(b"mine now")
    assert keys([str(source)], tmp_path / "out") == ["a.jpg.png", "sub/a-large.jpg.png"]


def test_a_path_that_cannot_be_asked_costs_no_other_picture(tmp_path: Path, small: Built) -> None:
    noise().save(tmp_path / "a.png")
    long = f"{tmp_path}/{'x' * 300}.png"
    assert len(keys([f"{tmp_path}/a.png", long], tmp_path / "out")) == 2
    one, made = worker(small.engines_fp32, tmp_path / "out"), str(tmp_path / "a.png")
    items = [Item(made, "a.png", Stamp(1, "1")), Item(long, "b.png", Stamp(-1, ""))]
    outcomes, _file = one.run(items, [b"", b""], Here())
    assert {outcome.source: outcome.status for outcome in outcomes} == {made: "done", long: "failed"}


def test_several_inputs_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = put(tmp_path / "one", "a.png"), put(tmp_path / "two", "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    assert keys([str(one), "two", "one/a.png"], tmp_path / "out") == [
        "one/a.png",
        "two/a.png",
        "two/b.png",
        "a.png",
    ]
    put(tmp_path / "other/one", "a.png")
    with pytest.raises(UsageError, match="would both go to one/"):
        keys([str(one), "other/one"], tmp_path / "out")
    (tmp_path / "list").write_text(f"one/a.png\n\n./one/a.png\n{two}/b.png\n../{tmp_path.name}/two/a.png\n")
    inside = [str(two / name).lstrip("/") for name in ("b.png", "a.png")]
    assert keys([], tmp_path / "out", [tmp_path / "list"]) == ["one/a.png", *inside]
    with pytest.raises(UserError, match="cannot be read"):
        keys([], tmp_path / "out", [tmp_path / "none"])


def test_inputs_and_outputs_do_not_overlap(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "sub/a.png")
    for output in (source, tmp_path):
        with pytest.raises(UsageError, match="lies in the output folder"):
            keys([str(source)], output)
    assert keys([str(source)], tmp_path / "in2") == ["sub/a.png"], "a name that begins alike is another folder"
    with pytest.raises(UserError, match="holds no image"):
        keys([str(put(tmp_path / "none", "n.txt"))], tmp_path / "out")


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b\\c", "C:", OWN, "failed.jsonl", "x\0"]), min_size=1))
def test_a_key_stays_in_its_folder(parts: list[str]) -> None:
    key = "/".join(parts)
    if safe_key(key):
        assert not {"..", ".", "", "x\0", "b\\c"} & set(parts) and parts[0] not in ("C:", OWN, "failed.jsonl")
    else:
        assert set(parts) - {"a"}


def test_links_do_not_lead_out_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    with pytest.raises(UserError, match="links lead out"):
        Place(str(tmp_path / "out")).path("sub/a.png")


def test_every_store_is_a_place() -> None:
    place = Place("memory://batch-test/out")
    place.write("sub/a.png", b"12345")
    assert place.read("sub/a.png") == b"12345" and place.stamps("sub")["a.png"].size == 5
    assert place.stamp("sub/b.png") is None and place.stamps("none") == {}
    assert keys(["memory://batch-test/out"], Path("elsewhere")) == ["sub/a.png"], "nothing unfinished is listed"
    assert place.stamps(f"{OWN}/unfinished") == {}
    place.remove("sub/a.png")
    assert place.stamp("sub/a.png") is None


@pytest.mark.parametrize("url", ["memory://batch-ledger", "local"])
def test_the_ledger_keeps_the_latest_line(url: str, tmp_path: Path) -> None:
    ledger = Ledger(Place(url if "://" in url else str(tmp_path)))
    other = Entry("b.png", *list(vars(LINE).values())[1:])
    ledger.write([LINE, other])
    ledger.write([Entry("a.png", "new", *list(vars(LINE).values())[2:])])
    ledger.place.write(f"{OWN}/done-9.jsonl", b'["a.png"\n[]\n\xff\n' + other.line()[:-9])
    assert len(ledger.files()) == 3
    ledger.gather(ledger.files())
    (file,) = ledger.files()
    read = {key: parse(line) for key, line in ledger.read().items()}
    assert {key: done and done.config for key, done in read.items()} == {"a.png": "new", "b.png": "c"}
    assert ledger.place.read(file).count(b"\n") == 2


@pytest.mark.parametrize(
    ("config", "source", "output", "expected"),
    [
        ("c", Stamp(5, "then"), Stamp(9, "later"), "done"),
        ("c", Stamp(5, "now"), Stamp(9, "later"), "look"),
        ("c", Stamp(5, "then"), Stamp(9, "now"), "look"),
        ("c", Stamp(-1, ""), Stamp(9, "later"), "look"),
        ("c", Stamp(6, "now"), Stamp(9, "later"), "todo"),
        ("c", Stamp(5, "then"), Stamp(8, "later"), "todo"),
        ("c", Stamp(5, "then"), None, "todo"),
        ("other", Stamp(5, "then"), Stamp(9, "later"), "todo"),
    ],
)
def test_what_is_done(config: str, source: Stamp, output: Stamp | None, expected: str) -> None:
    assert verdict(LINE, config, source, output) == expected
    assert verdict(None, config, source, output) == "todo"


class Here:
    """`Starts` without an actor."""

    def __init__(self) -> None:
        self.own = Starts()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


class Death(BaseException):
    pass


def worker(engines: Path, output: Path, tries: int = 3) -> Worker:
    settings = Settings(Recipe(engines, Options()), str(output), "c", 1, 1, tries)
    return Worker(settings)


def test_a_picture_that_kills_its_worker_fails_and_loses_no_other(tmp_path: Path, small: Built) -> None:
    """The first death hits a whole group; from then on its pictures are done one by one."""
    items = [Item(f"/{name}.png", f"{name}.png", Stamp(1, "1")) for name in "abcd"]
    starts, groups, deaths = Here(), [], 0
    found: list[Outcome] = []
    while not found:
        one = worker(small.engines_fp32, tmp_path)

        def upscale(group: list[Item]) -> Any:
            groups.append("".join(item.key[0] for item in group))
            if "b" in groups[-1]:
                raise Death
            return [(item, Entry(item.key, "c", 1, "1", "", 1, "1", "")) for item in group]

        one.upscale = upscale  # type: ignore[method-assign]
        try:
            found, _file = one.run(items, [b""] * 4, starts)
        except Death:
            deaths += 1
    assert groups == ["abcd", "a", "b", "a", "b", "a", "c", "d"]
    failed = [outcome for outcome in found if outcome.status == "failed"]
    assert deaths == 3 and [outcome.source for outcome in failed] == ["/b.png"] and "3 times" in failed[0].reason
    assert [outcome.status for outcome in found].count("done") == 3 and not +starts.own.counts


def test_one_file_under_two_names_and_outputs_over_inputs(tmp_path: Path, small: Built, photo: Path) -> None:
    output = tmp_path / "out"
    shutil.copy(photo, put(output, "x") / "own.png")
    sources = [
        (photo, "one.png"),
        (photo, "sub/two.png"),
        (output / "own.png", "own.png"),
        (tmp_path / "no", "no.png"),
    ]
    items = [Item(str(source), key, Stamp(1, "1")) for source, key in sources]
    outcomes, _file = worker(small.engines_int8, output).run(items, [b""] * 4, Here())
    assert sorted(outcome.status for outcome in outcomes) == ["done", "done", "failed", "failed"]
    assert (output / "one.png").read_bytes() == (output / "sub" / "two.png").read_bytes()
    reasons = " ".join(outcome.reason for outcome in outcomes)
    assert "would overwrite its own input" in reasons and "no such file" in reasons
    assert (output / "own.png").read_bytes() == photo.read_bytes()
