"""What a graph is rewritten to for OpenVINO's CPU kernels: one file each, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from passionsr_trt.engines.bundle.backends import OpenVINOTarget
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.graph.rewriting import Rewriting
from passionsr_trt.engines.openvino.compile import runs_in_bfloat16
from passionsr_trt.engines.openvino.passes.attention import AttentionInBfloat16
from passionsr_trt.engines.openvino.passes.blocks import SIDE, PixelsInBlocks
from passionsr_trt.engines.openvino.passes.enlargements import CodesBeforeEnlargements
from passionsr_trt.engines.openvino.passes.linears import LinearsAsConvolutions
from passionsr_trt.engines.openvino.passes.norms import NormsByChannel
from passionsr_trt.engines.openvino.passes.phases import PhasesApart
from passionsr_trt.engines.openvino.passes.unsigned import ShiftsAsUnsignedCodes, SignedAsUnsignedCodes


def sequence(part: PartInfo, target: OpenVINOTarget) -> Iterator[Rewriting[Any]]:
    """The rewritings of a part, in order. Weight codes are within the target's limit already (half_range.py): what
    follows sums them.

    1. Shifts become zero points first: they are known by int8 codes, and convolutions pad themselves behind them.
    2. Other signed codes, which shifts' are until then.
    3. Linears, phases and blocks, each where the target says that it is faster, in any order: they meet nowhere.
    4. Norms, enlargements and attention, in any order, where what is float runs in float32: parts that run in
       bfloat16 are left as they are otherwise. Attention takes bfloat16 where the target has it.
    """
    yield ShiftsAsUnsignedCodes()
    yield SignedAsUnsignedCodes()
    if target.convolutions:
        yield LinearsAsConvolutions()
    if target.phases:
        yield PhasesApart()
    if target.blocks and part.multiple // (part.output.stride or 1) % SIDE == 0:
        yield PixelsInBlocks(part.output.name)
    if runs_in_bfloat16(part, target):
        return
    yield NormsByChannel()
    yield CodesBeforeEnlargements()
    if target.bfloat16:
        yield AttentionInBfloat16()
