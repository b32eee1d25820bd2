"""Open the page in the browser of whoever started the server, where there is somebody who would see it."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping


def open_page(address: str) -> bool:
    """Whether a browser was started: none is where nobody would see it. What goes wrong is no error."""
    if not sys.stdout.isatty() or not has_display(sys.platform, os.environ):
        return False
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError, ValueError):
        return False


def has_display(platform: str, environment: Mapping[str, str]) -> bool:
    """Elsewhere than on X11 and Wayland there is one; a browser in the terminal would take it from the server."""
    if platform in ("win32", "darwin"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
