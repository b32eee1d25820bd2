"""Every case has a folder of its own, and a bound on memory; `make test` runs a sample, `make hostile` all."""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import HAS_TORCH, Built, made_once
from tests.hostile.bench import Bench, prepare
from tests.hostile.trial import Trial, in_folder

SAMPLE = 3  # cases of every test function, evenly spread
# bytes of addresses more: what reads without an end takes no machine with it. Each thread of a native library
# reserves some, and where that is refused the library may abort: the limit is far above what threads take
MEMORY = 12 * 2**30 + (os.cpu_count() or 1) * 2**28
NEED_TORCH = ("test_models.py", "test_pickles.py")
OWN_PROCESS = ("test_streams.py", "test_kills.py")  # a process or two for each case: none in the sample


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is not in the sample, before pytest looks at marks."""
    classes = defaultdict(list)
    for item in items:
        if item.path.parent == Path(__file__).parent:
            classes[item.path.name, item.name.partition("[")[0]].append(item)
    for (file, _name), found in classes.items():
        step = -(-len(found) // SAMPLE)
        for index, item in enumerate(found):
            if index % step or file in OWN_PROCESS:
                item.add_marker(pytest.mark.hostile)


@pytest.fixture(autouse=True, scope="module")
def bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.name in NEED_TORCH and not HAS_TORCH:
        pytest.skip("needs PyTorch")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, small: Built, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    model = request.getfixturevalue("small_model") if HAS_TORCH else None
    return Bench(made_once(tmp_path_factory, "bench", partial(prepare, small, model)))


@pytest.fixture
def trials(bench: Bench, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[[], AbstractContextManager[Trial]]:
    """A trial for each example that hypothesis draws."""
    return partial(in_folder, bench, capfdbinary)


@pytest.fixture
def trial(trials: Callable[[], AbstractContextManager[Trial]]) -> Iterator[Trial]:
    with trials() as started:
        yield started
