"""serve opens a browser where somebody would see it, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from passionsr_trt.runtime.apps.serving.opening import has_display

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
ADDRESS = "http://127.0.0.1:7860/"
OPEN = f"from passionsr_trt.runtime.apps.serving.opening import open_page; open_page({ADDRESS!r})"


def opened(folder: Path, terminal: bool, display: str, script: str = '#!/bin/sh\necho "$1" > "$0.asked"\n') -> str:
    """What a browser was asked for; nothing where none was."""
    browser = folder / "browser"
    browser.write_text(script, encoding="utf-8")
    browser.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "WAYLAND_DISPLAY"}
    environment |= {"BROWSER": str(browser), "DISPLAY": display}
    main, end = os.openpty()
    try:
        output = end if terminal else subprocess.DEVNULL
        subprocess.run([sys.executable, "-c", OPEN], env=environment, stdout=output, check=True)
    finally:
        os.close(main)
        os.close(end)
    asked = folder / "browser.asked"
    return asked.read_text(encoding="utf-8").strip() if asked.exists() else ""


def test_a_terminal_with_a_display_gets_a_browser(tmp_path: Path) -> None:
    assert opened(tmp_path, terminal=True, display=":0") == ADDRESS


@pytest.mark.parametrize(("terminal", "display"), [(False, ":0"), (True, "")])
def test_no_browser_is_started_where_nobody_would_see_it(tmp_path: Path, terminal: bool, display: str) -> None:
    assert opened(tmp_path, terminal, display) == ""


def test_a_browser_that_cannot_start_is_no_error(tmp_path: Path) -> None:
    assert opened(tmp_path, terminal=True, display=":0", script="#!/nowhere\n") == ""


def test_displays() -> None:
    assert (
        has_display("darwin", {}) and has_display("win32", {}) and has_display("linux", {"WAYLAND_DISPLAY": "w"})
    )
    assert not has_display("linux", {})
