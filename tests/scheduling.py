"""The longest tests come first, so that the processes of pytest-xdist end together."""

from __future__ import annotations

import pytest

# files in the order they begin; of the first two one makes the demo's bundles, the other the small model's
FIRST = (
    "tests/runtime/test_compare.py",
    "tests/runtime/test_batch.py",
    "tests/export/test_image_networks.py",
    "tests/export/test_resshift.py",
    "tests/export/test_resshift_steps.py",
    "tests/export/test_dit_sr.py",
    "tests/engines/test_coverage.py",
    "tests/runtime/test_infer.py",
    "tests/runtime/test_serving.py",
    "tests/engines/test_proof.py",
    "tests/engines/test_cpu.py",
    "tests/export/test_pipeline.py",
    "tests/export/test_block_by_block.py",
)
APART = ("tests/export/test_image_networks.py",)  # whose tests share nothing that takes long to make


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; what is in no list stays as it was."""
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


def scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, which makes its fixtures once; those of a file in APART in any."""
    from xdist.scheduler import LoadScopeScheduling

    class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False  # by the number of tests in a file
    return LongestFirst(config, log)
