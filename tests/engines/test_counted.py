"""A number and what it counts."""

from __future__ import annotations

from passionsr_trt.engines.common.counted import counted


def test_one_alone_has_no_s() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
