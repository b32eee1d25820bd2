"""setup.cfg beside the tree: every package and file is in it, and every extra that a message names."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
from passionsr_trt.engines.common import extras
from passionsr_trt.engines.common.extras import ORT_GPU, PACKAGES, Package, install, install_hint

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


def requirements(extra: str) -> set[str]:
    """Names of distributions."""
    lines = SETUP["options.extras_require"][extra].split("\n")
    return {found[0] for line in lines if (found := re.match(r"[\w-]+", line))}


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


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.module)
def test_a_package_s_extra_brings_it(package: Package) -> None:
    assert package.name in requirements(package.extra)


def test_no_message_names_an_extra_by_itself() -> None:
    assert "onnxruntime-gpu" in requirements(ORT_GPU)
    texts = {path.name: path.read_text(encoding="utf-8") for path in CODE}
    assert [name for name, text in texts.items() if "pip install {" in text] == ["extras.py"]
    assert not [name for name, text in texts.items() if "pip install -e" in text]
    assert not [name for name, text in texts.items() if "passionsr-trt[" in text], "no index has the package"


class Noted:
    """A distribution of which pip noted this, or nothing."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.text


FOLDERS = {  # of a checkout, and how it stands in a command
    "plain": '"{}[cpu,rtx]"',
    "with space": '"{}[cpu,rtx]"',
    "a $HOME": "'{}[cpu,rtx]'",
    "käse": '"{}[cpu,rtx]"',
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("editable", [True, False])
def test_what_is_to_be_installed_fits_how_the_package_was(
    folder: str, editable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "setup.cfg").touch()
    noted = json.dumps({"url": place.as_uri(), "dir_info": {"editable": True} if editable else {}})
    monkeypatch.setattr(extras.importlib.metadata, "distribution", lambda _name: Noted(noted))
    monkeypatch.setattr(extras, "checkout", extras.checkout.__wrapped__)
    command = f"pip install {'-e ' if editable else ''}{FOLDERS[folder].format(place)}"
    assert install("cpu", "rtx", "cpu") == command and install_hint("cpu", "rtx") == f"`{command}`"
    assert shlex.split(command)[-1] == f"{place}[cpu,rtx]"


@pytest.mark.parametrize(
    "noted",
    [
        None,
        "",
        "{",
        "[]",
        '{"url": "https://example.org/a.zip", "archive_info": {}}',
        '{"url": "file:///nowhere/at/all", "dir_info": {}}',
    ],
)
def test_where_no_checkout_is_known_it_is_said_where_to_install(
    noted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.importlib.metadata, "distribution", lambda _name: Noted(noted))
    monkeypatch.setattr(extras, "checkout", extras.checkout.__wrapped__)
    assert install("cpu", "rtx", "cpu") == 'pip install -e ".[cpu,rtx]"'
    assert install_hint("cpu") == 'in the checkout: `pip install -e ".[cpu]"`'


def test_doctor_names_every_extra_that_anybody_may_miss() -> None:
    told = {package.extra for package in PACKAGES if package.purpose}
    assert told == {package.extra for package in PACKAGES}
