"""Weight codes brought into a smaller range, for CPUs whose INT8 kernels saturate, without the model or its data.

Only codes q (int8) and their scales are at hand; a channel's new codes are r = clip(round(q/k), ±limit), its new
scale Δ·k:

1. k: of 32 candidates from 0.7·max|q|/limit to max|q|/limit the one of least Σ(q − k·r)², a channel at a time.
2. Rounding: codes of a kernel (and then of a channel) whose errors add up to more than half a code are rounded the
   other way where that costs least, so that what a smooth input sees stays right (SQuant, ICLR 2022,
   arXiv 2202.07471: kernel- and channel-wise constrained absolute sums of error).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from passionsr_trt.engines.common.temporaries import temporary_folder
from passionsr_trt.engines.graph.checked import weight_files

CANDIDATES = 32
SMALLEST = 0.7


def limit_codes(codes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """codes [O, I, ...] int8 → codes within ±limit and k [O] float64, by which each channel's scale grows.

    Channels that are within the limit already keep their codes (k = 1).
    """
    rows = codes.reshape(len(codes), -1)
    k = best_factors(rows, limit)
    exact = np.ascontiguousarray(codes / k.reshape(-1, *[1] * (codes.ndim - 1)))  # `balance` works on views
    rounded = np.clip(np.rint(exact), -limit, limit)
    if codes.ndim > 2:
        kernels = rounded.reshape(codes.shape[0] * codes.shape[1], -1)
        balance(kernels, exact.reshape(kernels.shape), limit)
    balance(rounded.reshape(rows.shape), exact.reshape(rows.shape), limit)
    return rounded.astype(np.int8), k


def best_factors(rows: np.ndarray, limit: int) -> np.ndarray:
    """k of each row [O, N] by step 1, from a histogram of its codes: errors depend on |q| alone."""
    sizes = np.abs(rows.astype(np.int16))
    top = sizes.max(axis=1, initial=0)
    histogram = np.stack([np.bincount(row, minlength=129) for row in sizes])
    magnitudes = np.arange(129.0)
    best = np.ones(len(rows))
    for largest in np.unique(top[top > limit]):
        factors = np.linspace(SMALLEST, 1.0, CANDIDATES) * largest / limit
        codes = np.minimum(np.rint(magnitudes / factors[:, None]), limit)
        errors = (magnitudes - codes * factors[:, None]) ** 2
        chosen = top == largest
        best[chosen] = factors[np.argmin(histogram[chosen] @ errors.T, axis=1)]
    return best


def balance(rounded: np.ndarray, exact: np.ndarray, limit: int) -> None:
    """Step 2 for each row, in place: as many codes as the sum of errors says move by one, the nearest to a tie
    first."""
    error = exact - rounded
    total = error.sum(axis=1)
    count = np.rint(np.abs(total)).astype(np.int64)
    direction = np.sign(total)[:, None]
    # what was rounded away from where the sum wants it, and may move: within half a code, and in range
    gain = np.where(np.abs(rounded + direction) <= limit, error * direction, -1.0)
    gain[np.abs(error) > 0.5] = -1.0  # clipped ones stay
    order = np.argsort(-gain, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(gain.shape[1]), gain.shape), axis=1)
    rounded += direction * ((rank < count[:, None]) & (gain > 0))


@contextmanager
def within_limit(path: Path, limit: int | None) -> Iterator[Path]:
    """`path`, or while the context lasts a copy of the graph in it whose weights are within ±limit."""
    if limit is None:
        yield path
        return
    with temporary_folder() as folder:
        for name in (path.name, *weight_files(onnx.load(str(path), load_external_data=False))):
            shutil.copyfile(path.with_name(name), folder / name)
        limit_weights(folder / path.name, limit)
        yield folder / path.name


def limit_weights(path: Path, limit: int) -> None:
    """Bring the weights of the QDQ graph in `path` within ±limit, in its file and the one beside it."""
    model = onnx.load(str(path), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        stored, scale = tensors[node.input[0]], tensors[node.input[1]]
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        codes, k = limit_codes(np.moveaxis(read_tensor(stored, path.parent), axis, 0), limit)
        steps = read_tensor(scale, path.parent)
        write_tensor(stored, np.moveaxis(codes, 0, axis), path.parent)
        write_tensor(scale, (steps * k).astype(steps.dtype), path.parent)
    onnx.save(model, str(path))


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """A constant, wherever it lies; folder: of the graph's file."""
    if not tensor.external_data:
        return numpy_helper.to_array(tensor)
    file, offset = _place(tensor, folder)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.fromfile(file, kind, int(np.prod(tensor.dims)), offset=offset).reshape(tensor.dims)


def write_tensor(tensor: onnx.TensorProto, value: np.ndarray, folder: Path) -> None:
    """A constant's new value, of its type and shape, where it lies."""
    if not tensor.external_data:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
        return
    file, offset = _place(tensor, folder)
    with file.open("r+b") as target:
        target.seek(offset)
        target.write(value.tobytes())


def _place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int]:
    """File and offset of a tensor that lies outside its graph."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return folder / entries["location"], int(entries.get("offset", 0))
