"""Memory: what engines will need, known before they run, and what is free.

A process that outgrows its memory is killed without a word on most systems, so it has to be known beforehand.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import psutil

CGROUP = Path("/sys/fs/cgroup")


def peak_activations(compiled: Any) -> int:
    """Most bytes of tensors alive at once in a compiled OpenVINO model, in the order in which its kernels run.

    OpenVINO lays them out in one arena of nearly that size (measured: 3 to 5 % more) and keeps it.
    """
    operations = compiled.get_runtime_model().get_ordered_ops()
    sizes, ends = {}, {}
    for index, operation in enumerate(operations):
        constant = operation.get_rt_info()["layerType"].astype(str) == "Const"
        for output in operation.outputs():
            count = 0 if constant else prod(output.get_shape()) * output.get_element_type().size
            sizes[operation.get_friendly_name(), output.get_index()] = (index, count)
        for source in (entry.get_source_output() for entry in operation.inputs()):
            ends[source.get_node().get_friendly_name(), source.get_index()] = index
    change = [0] * (len(operations) + 1)
    for name, (start, size) in sizes.items():
        change[start] += size
        change[ends.get(name, start) + 1] -= size
    alive, most = 0, 0
    for step in change:
        alive += step
        most = max(most, alive)
    return most


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
