"""setup.cfg beside the tree: every package and file is in it."""

from __future__ import annotations

import configparser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
FILES = [
    path
    for room in ("engines", "export", "runtime")
    for path in sorted((ROOT / room).rglob("*"))
    if path.is_file() and not any(name.startswith((".", "__pycache__")) for name in path.relative_to(ROOT).parts)
]
CODE = [path for path in FILES if path.suffix == ".py"]


def package_of(path: Path) -> str:
    return ".".join(("passionsr_trt", *path.relative_to(ROOT).parts))


def test_every_folder_with_code_is_a_package_and_listed() -> None:
    listed = SETUP["options"]["packages"].split()
    assert listed == sorted({package_of(path.parent) for path in CODE})


def test_every_other_file_is_package_data() -> None:
    data = {
        package: [pattern.strip() for pattern in patterns.split(",")]
        for package, patterns in SETUP["options.package_data"].items()
    }
    owners = {package: ROOT.joinpath(*package.split(".")[1:]) for package in data}
    taken = {
        (package, pattern): {path for path in owners[package].glob(pattern) if path.is_file()}
        for package, patterns in data.items()
        for pattern in patterns
    }
    assert {path for path in FILES if path.suffix != ".py"} == set().union(*taken.values())
    assert all(taken.values()), "a pattern that matches nothing"
