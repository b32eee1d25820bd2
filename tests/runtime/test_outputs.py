"""Which file a picture becomes: none twice, none over a picture that was given."""

from __future__ import annotations

from pathlib import Path

import pytest
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.pictures.files import find_pictures
from passionsr_trt.runtime.core import outputs
from passionsr_trt.runtime.core.outputs import (
    Outputs,
    beside,
    in_folder,
    name_outputs,
    named_as_output,
    source_stem,
)

from tests.engines.test_picture_files import put


def plan(output: Path, *given: Path, kind: str | None = "png") -> Outputs:
    return name_outputs(find_pictures(list(given), output)[0], output, kind)


def targets(planned: Outputs, output: Path) -> list[str]:
    return [target.relative_to(output).as_posix() for target in planned.pairs.values()]


def test_sub_folders_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = put(tmp_path / "in", "a.jpg", "x/a.jpg", "x.y/b.c.webp", "x/dot..png", "x/end .jpg")
    assert targets(plan(out, source), out) == ["a.png", "x/a.png", "x/dot..png", "x/end .png", "x.y/b.c.png"]
    assert targets(plan(out, source / "x" / "a.jpg"), out) == ["a.png"]


def test_names_that_differ_in_the_suffix_alone_are_both_written(tmp_path: Path) -> None:
    source, out = put(tmp_path / "in", "a.jpg", "a.png", "a.webp", "b.jpg", "sub/a.jpg"), tmp_path / "out"
    planned = plan(out, source)
    assert targets(planned, out) == ["a.jpg.png", "a.png", "a.webp.png", "b.png", "sub/a.png"]
    assert not planned.refused and "a.jpg → a.jpg.png and 1 more" in planned.line()
    expected = ["a.jpg", "a.png.jpg", "a.webp.jpg", "b.jpg", "sub/a.jpg"]
    assert targets(plan(out, source, kind="jpg"), out) == expected
    put(source, "a.jpg.png")
    planned = plan(out, source)
    assert targets(planned, out) == ["a.jpg.png", "a.png", "a.webp.png", "b.png", "sub/a.png"]
    assert next(iter(planned.pairs)).name == "a.jpg.png", "who has a name by itself keeps it"
    assert planned.refused == [
        f"{source}/a.jpg: would become a.jpg.png, as {source}/a.jpg.png; expected different names; run them apart"
    ]


def test_a_file_keeps_its_format_and_what_is_never_written_becomes_a_png(tmp_path: Path) -> None:
    names = ["a.JPG", "a.gif", "a.jpeg", "a.png", "a.webp", "b.jfif", "b.tif"]
    source, out = put(tmp_path / "in", *names), tmp_path / "out"
    expected = ["a.JPG", "a.gif.png", "a.jpeg", "a.png", "a.webp", "b.jpg", "b.png"]
    assert targets(plan(out, source, kind=None), out) == expected


def test_beside_its_picture_each_has_a_name_of_its_own(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.jpg", "a.png", "sub/b.bmp")
    found = find_pictures([source, source / "a.png"])[0]
    assert targets(beside(found, None, "_x4"), source) == ["a_x4.jpg", "a_x4.png", "sub/b_x4.png"]
    assert targets(beside(found, "png", "-2"), source) == ["a.jpg-2.png", "a-2.png", "sub/b-2.png"]
    planned = beside(found, None, "")
    assert targets(planned, source) == ["sub/b.png"]
    assert planned.refused[0].endswith(
        "overwrite its own input; expected another --suffix, -o or another --format"
    )


@pytest.mark.parametrize(("name", "yes"), [("a_x4", True), ("a_x2.5", True), ("a_big", True), ("max4", False)])
def test_names_of_enlarged_pictures_are_known(name: str, yes: bool) -> None:
    assert named_as_output(name, "_big") is yes and source_stem(name, "_big") == ("a" if yes else name)


def test_of_two_folders_the_first_has_the_name(tmp_path: Path) -> None:
    one, two, out = put(tmp_path / "1", "a.png"), put(tmp_path / "2", "a.png", "b.png"), tmp_path / "out"
    planned = plan(out, one, two, one / "a.png", two / ".." / "1" / "a.png")
    assert targets(planned, out) == ["a.png", "b.png"] and len(planned.refused) == 1, "one file is done once"
    assert planned.refused[0].startswith(f"{two}/a.png: would become a.png, as {one}/a.png")


def test_no_input_is_written_over(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.png", "b.jpg", "sub/b.png")
    planned = plan(source, source)
    assert targets(planned, source) == ["b.png"] and len(planned.refused) == 2
    assert "overwrite its own input; expected another output folder, or another --format" in planned.refused[0]
    assert targets(plan(source, source, kind="webp"), source) == ["a.webp", "b.webp", "sub/b.webp"]
    planned = plan(source, source / "b.jpg", put(tmp_path / "other", "c.png") / "c.png", source / "sub" / "b.png")
    assert not planned.refused and targets(planned, source) == ["b.jpg.png", "c.png", "b.png"]
    (source / "c.jpg").write_bytes(b"x")
    (source / "c.png").symlink_to("a.png")
    planned = plan(source, source / "c.jpg", source / "a.png")
    assert not planned.pairs and "a.png, an input; expected" in planned.refused[0]
    assert not plan(source / "a.png", source / "b.jpg", kind="png").refused, "a.png was not given"
    assert plan(source / "a.png", source / "a.png").refused


def test_names_that_differ_in_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = put(tmp_path / "in", "A.jpg", "a.jpg", "Ä/b.jpg", "ä/b.jpg"), tmp_path / "out"
    if len(list(source.iterdir())) < 4:
        pytest.skip("this disk takes them for one")
    assert targets(plan(out, source), out) == ["A.png", "a.png", "Ä/b.png", "ä/b.png"]
    monkeypatch.setattr(outputs, "folds_case", lambda _folder: True)
    planned = plan(out, source)
    assert targets(planned, out) == ["A.jpg.png", "Ä/b.jpg.png"] and len(planned.refused) == 2
    assert not list(tmp_path.glob("**/.*")), "the trial leaves nothing"


def test_outputs_that_cannot_be_are_wrong_usage(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.jpg", "b.jpg")
    for output in (tmp_path / "one.png", tmp_path / "out.bmp", source / "a.jpg"):
        with pytest.raises(UsageError):
            plan(output, source)


def test_a_file_s_name_and_the_format_that_is_asked_for_agree(tmp_path: Path) -> None:
    source = put(tmp_path / "in", "a.png") / "a.png"
    for name, kind in (("x.jpg", "jpg"), ("x.JPEG", "jpg"), ("x.png", "png"), ("x.webp", "webp"), ("x.png", None)):
        assert plan(tmp_path / name, source, kind=kind).pairs == {source: tmp_path / name}
    for name, kind in (("x.png", "jpg"), ("x.jpeg", "webp"), ("x.webp", "png")):
        with pytest.raises(UsageError) as caught:
            plan(tmp_path / name, source, kind=kind)
        fact = f"-o {tmp_path / name} with --format {kind}"
        assert str(caught.value) == f"{fact}; expected a name ending in .{kind}, or no --format"


def test_a_name_that_is_taken_is_no_picture_s(tmp_path: Path) -> None:
    source, out = put(tmp_path / "in", "overview.png", "a.png", "sub/overview.png"), tmp_path / "out"
    planned = in_folder(find_pictures([source])[0], out, "png", "overview.png")
    assert targets(planned, out) == ["a.png", "overview.png.png", "sub/overview.png"] and not planned.refused


def test_an_output_that_cannot_be_asked_or_ends_in_a_space(tmp_path: Path) -> None:
    source, long = put(tmp_path / "in", "a.png"), tmp_path / ("x" * 300)
    assert targets(plan(long, source), long) == ["a.png"]
    with pytest.raises(UsageError, match="is no folder"):
        plan(tmp_path / "out.png ", source)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".EXR", ".heic"])
def test_a_format_that_is_not_written_is_said_with_those_that_are(tmp_path: Path, suffix: str) -> None:
    source, out = put(tmp_path / "in", "a.png"), tmp_path / f"up{suffix}"
    expected = (
        r"is a format that is not written; expected a folder, or a name ending in \.png, \.jpg, \.jpeg or \.webp"
    )
    with pytest.raises(UsageError, match=f"{suffix.lower()} {expected}"):
        plan(out, source)
    assert not out.exists()
