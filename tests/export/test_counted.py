"""Counts on shapes alone (benchmarks/counted.py): what memory and time are predicted from."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.conftest import ROOT

META = torch.device("meta")


@pytest.fixture(scope="module")
def counted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("counted", ROOT / "benchmarks" / "counted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_peak_is_what_is_held_at_once(counted: ModuleType) -> None:
    x = torch.zeros(256, device=META)  # 1 KiB, there before
    with counted.Counting() as counting:
        counts = counting.restart()
        a = x + 1
        b = a * 2
        view = b[:7]
        del a, b
        c = x - 1
        assert counts.peak == 2048 and counting.live == 2048, "a view holds what it is of"
        del view
        assert counting.live == 1024
        c.add_(1)
        assert counting.live == 1024
    assert len(counts.work) == 4 and [moved for _operations, moved in counts.work] == [2048] * 4


def test_what_the_backward_pass_needs_is_held(counted: ModuleType) -> None:
    weight = nn.Parameter(torch.zeros(256, device=META))
    with counted.Counting() as counting:
        loss = (torch.zeros(256, device=META) * weight).sin().cos().sum()
        assert counting.live == 3 * 1024 + 4
        loss.backward()
        del loss
        assert counting.live == 1024, "the gradient"


def test_operations_are_two_a_multiply_accumulate(counted: ModuleType) -> None:
    x, weight = torch.zeros(1, 8, 10, 10, device=META), torch.zeros(16, 8, 3, 3, device=META)
    with counted.Counting() as counting:
        counts = counting.restart()
        nn.functional.conv2d(x, weight, padding=1)
    assert counts.operations == 2 * 10 * 10 * 16 * 8 * 9
    moved = 4 * (x.numel() + weight.numel() + 16 * 100)
    assert counts.seconds(rate=1.0, bandwidth=1e12) == counts.operations
    assert counts.seconds(rate=1e18, bandwidth=2.0) == moved / 2


def test_attention_holds_no_matrix_of_scores(counted: ModuleType) -> None:
    query = torch.zeros(1, 2, 4096, 64, device=META)
    with counted.Counting() as counting, counted.attention_of_cuda():
        counts = counting.restart()
        nn.functional.scaled_dot_product_attention(query, query, query, scale=1.0)
    assert counts.operations == 2 * 2 * 2 * 4096 * 4096 * 64
    assert counts.peak < 2 * 4096 * 4096 * 4 / 10


def test_a_question_to_a_tensor_is_answered(counted: ModuleType) -> None:
    with counted.Counting() as counting:
        assert float(torch.zeros((), device=META) + 1) == 0.0
        counting.answer = 1.0
        assert bool((torch.zeros(3, device=META) > 0).any()) and float(torch.zeros((), device=META)) == 1.0
        assert torch.allclose(torch.zeros(3, device=META), torch.ones(3, device=META))
