"""Headless Chromium for tests of pages: the system's own, driven by Playwright; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOOLS = all(importlib.util.find_spec(name) for name in ("playwright", "axe_playwright_python"))
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not TOOLS, reason="needs chromium, playwright and axe-playwright-python"
)
HEIGHT = 900
WIDTHS = (1280, 390)  # of a screen and of a phone, in pixels
GRAVE = ("serious", "critical")


@contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser. Root has no sandbox in a container."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def grave_findings(page: Any) -> list[str]:
    """axe-core's serious and critical ones, with the element they are about."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{found['id']}: {node['html'][:200]}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in GRAVE
        for node in found["nodes"]
    ]
