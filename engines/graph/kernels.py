"""One kernel of a TensorRT engine from the tensors that it reads and writes: precision, MACs, bytes.

Both lists that TensorRT gives, the inspector's JSON and the builder's verbose log, come down to this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from passionsr_trt.engines.bundle.formats import LAYER_TYPES
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.graph.coverage import Layer
from passionsr_trt.engines.graph.names import fuse_attention

DATATYPE_BYTES = {
    "Float": 4.0,
    "Half": 2.0,
    "BFloat16": 2.0,
    **dict.fromkeys(LAYER_TYPES, 1.0),
    "Int32": 4.0,
    "Int64": 8.0,
    "Bool": 1.0,
}
COMPUTE = {
    "correlation",
    "gemm",
    "convolution",
    "caskconvolution",
    "matmul",
    "matrixmultiply",
    "caskgemmconvolution",
}
FUSED = "runtime_fusion"  # RTX: a Conv or MatMul with its neighbours where it has a weight, else pointwise work


@dataclass(frozen=True)
class TensorUse:
    """A tensor that a kernel reads or writes. dtype: Float, Half, Int8, FP8, … name: where the list tells."""

    shape: tuple[int, ...]
    dtype: str
    name: str = ""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        return self.elements * DATATYPE_BYTES.get(self.dtype, 4.0)


def kernel(
    name: str,
    kind: str,
    origins: Sequence[str],
    inputs: Sequence[TensorUse],
    constants: Sequence[TensorUse],
    outputs: Sequence[TensorUse],
    made: Mapping[str, str] = MappingProxyType({}),
) -> Layer:
    """`constants`: weights; `origins`: the ONNX nodes that the kernel does the work of; made: `made_of_codes` of
    the kernels before it.

    codes: of a Conv or MatMul with an Int8 or FP8 input besides its weights (codes as weights alone are
    weight-only).
    MACs of a fused attention: both its products. Of sizes that are not fixed MACs and bytes are unknown: 0.
    """
    tensors = (*inputs, *constants, *outputs)
    fixed = all(side >= 0 for tensor in tensors for side in tensor.shape)
    attention = fuse_attention(origins)
    weights = [tensor for tensor in constants if tensor.elements > max(tensor.shape, default=0)]  # not biases
    computes = kind.lower() in COMPUTE or (kind == FUSED and bool(weights))
    macs = 0
    if fixed and attention:
        macs = _attention_macs(inputs, outputs)
    elif fixed and computes and inputs and outputs:
        macs = _product_macs(inputs[0], weights, outputs[0])
    return Layer(
        name=name,
        kind=kind,
        codes=next((tensor.dtype for tensor in inputs if computes and tensor.dtype in LAYER_TYPES), ""),
        names=tuple(origins),
        bytes_moved=int(sum(tensor.bytes for tensor in tensors)) if fixed else 0,
        macs=macs,
        precision=inputs[0].dtype if inputs else "",
        attention=attention,
        weights=_codes_of(constants) or next((made[tensor.name] for tensor in inputs if tensor.name in made), ""),
    )


def made_of_codes(
    inputs: Sequence[TensorUse], constants: Sequence[TensorUse], outputs: Sequence[TensorUse]
) -> dict[str, str]:
    """What a kernel makes of constants in codes alone, float weights: tensor → type of the codes."""
    codes = "" if inputs else _codes_of(constants)
    return {tensor.name: codes for tensor in outputs if tensor.name} if codes else {}


def _codes_of(constants: Sequence[TensorUse]) -> str:
    return next((tensor.dtype for tensor in constants if tensor.dtype in LAYER_TYPES), "")


def _product_macs(source: TensorUse, weights: Sequence[TensorUse], output: TensorUse) -> int:
    """A Conv's [O,I,kh,kw] weight, or a MatMul of [.., M,K] with [.., K,N]: outputs · what each one sums over."""
    windows = [math.prod(tensor.shape[1:]) for tensor in weights if len(tensor.shape) == len(output.shape) == 4]
    summed = windows[0] if windows else source.shape[-1] if source.shape else 0
    return output.elements * summed


def _attention_macs(inputs: Sequence[TensorUse], outputs: Sequence[TensorUse]) -> int:
    """q [h,N,d], kᵀ [h,d,M], v [h,M,d] → [h,N,d]: h·N·M·d twice."""
    if len(inputs) < 3 or not outputs:
        return 0
    keys = max(inputs[1].shape[-2:])
    return 2 * outputs[0].elements * keys


def save_layers(layers: Sequence[Layer], path: Path) -> None:
    """Keep the list beside the engine, for `predict`."""
    path.write_text(json.dumps([asdict(layer) for layer in layers]), encoding="utf-8")


def load_layers(path: Path) -> list[Layer]:
    """What save_layers kept; UserError where it is not there or damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Layer(**{**entry, "names": tuple(entry["names"])}) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: no layer list of an engine ({reason})", "", "build the engines again") from None
