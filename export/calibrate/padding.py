"""Zero padding while a part is calibrated: in front of a shift it moves into the port, afterwards back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from passionsr_trt.export.calibrate.learn import LearnedPort
from passionsr_trt.export.calibrate.search import PortSearch
from passionsr_trt.export.quantize.sites import SiteConv
from passionsr_trt.export.quantize.transform import claim_padding


@contextmanager
def keeping_padding(searches: list[PortSearch]) -> Iterator[None]:
    """Paddings that moved from sites into their ports while the context lasted go back."""
    before = [(getattr(search.sites[0].site, "pads", ()), search.port.pads) for search in searches]
    try:
        yield
    finally:
        for search, (site_pads, port_pads) in zip(searches, before, strict=True):
            search.port.pads = port_pads
            for named in search.sites:
                if isinstance(named.site, SiteConv):
                    named.site.pads = site_pads


def settle_padding(search: PortSearch) -> None:
    """In front of a shift the port pads, and the padded zeros are part of its range."""
    learner = search.port.learner
    assert isinstance(learner, LearnedPort)
    if learner.shifted:
        for named in search.sites:
            claim_padding(named.site)
        if search.port.pads:
            learner.lows, learner.highs = learner.lows.clamp_max(0), learner.highs.clamp_min(0)
