"""A search over four candidates a port: for tests in which nothing depends on how good the best one is."""

from __future__ import annotations

import pytest
from passionsr_trt.export.calibrate.steps import search


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ALPHAS", (None, 0.4))
    monkeypatch.setattr(search, "SHARES", (1.0, 0.7))
    monkeypatch.setattr(search, "ALPHAS_OF_BOTH", (0.4, 0.7))
    monkeypatch.setattr(search, "COVERS_OF_BOTH", (1.0, 1.5))
