"""The fast part of the hostile suite: some of each class, in this process. All of it: `make hostile`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile import registry
from tests.hostile.bench import Bench, prepare
from tests.hostile.harness import try_case
from tests.hostile.known import known

FAST = {"pictures": 40, "names": 12, "options": 14, "bundles": 30, "files": 10, "models": 12, "pickles": 10}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PASSIONSR_CACHE", "TMPDIR"):
            patch.setenv(name, "")
        patch.setattr("tempfile.tempdir", None)
        yield prepare(tmp_path_factory.mktemp("hostile"), whole=False)


@pytest.mark.parametrize("kind", FAST)
def test_hostile_input_is_done_rightly_or_refused_in_one_line(kind: str, bench: Bench) -> None:
    chosen = [case for case in registry.chosen([kind], FAST[kind]) if not known(case.label)]
    if not chosen:
        pytest.skip("needs PyTorch")
    verdicts = [try_case(case, bench) for case in chosen]
    bad = [f"{verdict.name}: {verdict.fault}: {verdict.reason}" for verdict in verdicts if verdict.fault]
    assert not bad, "\n".join(bad)
