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
    "tests/export/test_bidiffsr.py",
    "tests/export/test_pipeline.py",
    "tests/runtime/test_infer.py",
    "tests/engines/test_fp8.py",
    "tests/runtime/test_memory.py",
    "tests/engines/test_wrong_kernels.py",
    "tests/engines/test_cpu.py",
    "tests/export/test_drawn_pictures_count.py",
    "tests/hostile/test_uploads.py",
    "tests/export/test_round_weights.py",
)
APART = ("tests/export/test_image_networks.py",)  # whose tests share nothing that takes long to make


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; what is in no list stays as it was."""
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


def scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, which makes its fixtures once; those of a file in APART in any.

    | a process dies             | xdist 3.8                                   | here                            |
    | -------------------------- | ------------------------------------------- | ------------------------------- |
    | the test it died of        | runs again, and kills the next processes    | fails, and does not run again   |
    | files it was through with  | wait again as work: the last tests may hang | are done                        |
    | a process in its place     | gets work before it has collected: KeyError | gets work once it has collected |
    """
    from xdist.scheduler import LoadScopeScheduling

    class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else str(super()._split_scope(nodeid))

        def remove_node(self, node: object) -> str | None:
            work = self.assigned_work[node]
            died_of = next((name for unit in work.values() for name, done in unit.items() if not done), None)
            if died_of is not None:
                work[self._split_scope(died_of)][died_of] = True
            for scope in [scope for scope, unit in work.items() if all(unit.values())]:
                del work[scope]
            super().remove_node(node)
            return died_of

        def _reschedule(self, node: object) -> None:
            if node not in self.registered_collections or node.shutting_down:  # type: ignore[attr-defined]
                return
            super()._reschedule(node)
            # a process runs a test once it knows the next
            while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)

    config.option.loadscopereorder = False  # by the number of tests in a file
    return LongestFirst(config, log)
