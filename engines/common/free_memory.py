"""How much memory is free.

A process that outgrows its memory is killed without a word on most systems, so it has to be known beforehand.
"""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that a process can still take: the machine's, or its container's where that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (cgroup / "memory.max").read_text(encoding="utf-8").strip()
        used = int((cgroup / "memory.current").read_text(encoding="utf-8"))
        lines = (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return free
    if limit == "max":
        return free
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return min(free, max(0, int(limit) - used + cached))


def in_words(size: float) -> str:
    """Bytes as `1.53 GiB`; what is less than 0.10 of them as `12.3 MiB`, less than 0.1 of those as `99 bytes`."""
    if size >= 0.095 * 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 0.05 * 2**20 else f"{size:.0f} bytes"
