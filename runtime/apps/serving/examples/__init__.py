"""Pictures to try the page with: ATTRIBUTION.md."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

EXAMPLES = {name: Path(__file__).with_name(f"{name}.png") for name in ("cat", "coffee")}


def copy_of(name: str, root: Path) -> Path:
    """A file of a folder of its own in `root`, as uploads are."""
    folder = root / secrets.token_hex(16)
    folder.mkdir(mode=0o700)
    return Path(shutil.copy(EXAMPLES[name], folder))
