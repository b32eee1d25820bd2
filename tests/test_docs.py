"""The pages beside the tree: links, paths and commands that they name are there, and their words are explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from passionsr_trt.runtime.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ROOT / "export" / "families" / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", FAMILIES, *DOCS]
GLOSSARY = ROOT / "docs" / "how-it-works.md"
WORDS = "part site port scale boundary shift LET LBQ DQC DOBI fold bundle engine".split()
LINK = re.compile(r"\]\(([^)\s]+)\)")
# of a file in the tree; out/ and demo/out/ are made by commands
TREE = re.compile(
    r"(?<![\w/.$-])((?:export|engines|runtime|calib_cache|demo|benchmarks|docs|docker|tests)/[\w./-]*\w/?)(?!\*)"
)
MADE = ("demo/out", "engines/rtx", "calib_cache/KEY", "engines/PART")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path, program: str) -> dict[str, set[str]]:
    """`program WORD --option …` in code blocks: every word with its options, continued lines joined."""
    found: dict[str, set[str]] = {}
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        words = line.partition(program)[2].partition(" #")[0].partition(" && ")[0].split()
        if line.startswith("    ") and words:
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            found.setdefault(words[0], set()).update(given)
    return found


def options(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _hash, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_are_in_the_tree(page: Path) -> None:
    text = LINK.sub("", page.read_text(encoding="utf-8"))
    named = {path for path in TREE.findall(text) if not path.startswith(MADE)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_are_there(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, given in commands(page, "passionsr-trt ").items():
        assert command in COMMANDS
        assert given <= options(command, capsys), command


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_benchmarks_and_their_options_are_there(page: Path) -> None:
    for script, given in commands(page, "python benchmarks/").items():
        code = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        assert [option for option in sorted(given) if f'"{option}"' not in code] == [], script


@pytest.mark.parametrize(
    "page", [path for path in PAGES if path not in (GLOSSARY, ROOT / "CHANGELOG.md")], ids=name_of
)
def test_a_page_says_where_its_words_are_explained(page: Path) -> None:
    assert "how-it-works.md#words" in page.read_text(encoding="utf-8")


def test_the_glossary_has_the_words() -> None:
    table = GLOSSARY.read_text(encoding="utf-8").partition("## Words")[2].partition("\n## ")[0]
    assert set(WORDS) <= set(re.findall(r"^\| \*\*(.+?)\*\*", table, re.MULTILINE))
