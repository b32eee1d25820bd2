"""What --for means: every name gets the row of docs/gpu.md."""

from __future__ import annotations

import pytest
from passionsr_trt.engines import target_device as module
from passionsr_trt.engines.bundle.formats import capability
from passionsr_trt.engines.common.errors import UsageError
from passionsr_trt.engines.target_device import target_device
from passionsr_trt.engines.tensorrt.roofline import known_gpus

NAMES = {
    "cpu": ("openvino", "int8", "fp32", ""),
    "RTX 4090": ("tensorrt-rtx", "fp8", "fp16", "8.9"),
    "rtx4070": ("tensorrt-rtx", "fp8", "fp16", "8.9"),
    "NVIDIA GeForce RTX 4060 Laptop GPU": ("tensorrt-rtx", "fp8", "fp16", "8.9"),
    "GeForce RTX 3080 Ti": ("tensorrt", "int8", "fp16", "8.6"),
    "RTX 4070 Ti SUPER": ("tensorrt-rtx", "fp8", "fp16", "8.9"),
    "RTX 3060 12GB": ("tensorrt", "int8", "fp16", "8.6"),
    "RTX 2050": ("tensorrt", "int8", "fp16", "8.6"),
    "RTX 2080": ("tensorrt", "int8", "fp16", "7.5"),
    "orin": ("tensorrt", "int8", "fp16", "8.7"),
    "Jetson AGX Orin 64GB": ("tensorrt", "int8", "fp16", "8.7"),
    "a100": ("tensorrt", "int8", "fp16", "8.0"),
    "H200": ("tensorrt", "int8", "fp16", "9.0"),
    "thor": ("tensorrt", "fp8", "fp16", "11.0"),
    "8.9": ("tensorrt-rtx", "fp8", "fp16", "8.9"),
    "12.0": ("tensorrt-rtx", "fp8", "fp16", "12.0"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gets_backend_format_and_capability(name: str) -> None:
    device = target_device(name)
    assert (device.backend.name, device.format.name, device.precision, device.capability) == NAMES[name]


def test_every_known_gpu_is_found_by_its_name_and_multiplies_in_its_format() -> None:
    for gpu in known_gpus():
        device = target_device(gpu.name)
        assert device.gpus == (gpu.name,)
        assert capability(gpu.capability) >= device.format.capability


def test_a_prediction_is_for_known_gpus_of_the_same_capability() -> None:
    assert target_device("orin").gpus == ("Orin NX 16GB", "AGX Orin 64GB")
    assert target_device("8.9").gpus == target_device("RTX 4060").gpus == ("RTX 4070", "RTX 4090")
    assert target_device("8.6").gpus == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RTX 490", r"'RTX 490': not known; expected cpu, a compute capability such as 8\.6, or a GPU: RTX 4090"),
        ("rtx4090x", r"not known; expected .* or a GPU: RTX 4090"),
        ("H20", "a GPU: H200$"),
        ("banana", "RTX 4070, .*, Thor T5000"),
        ("rtx", "could be RTX 4070, RTX 4090, RTX 5090"),
        ("", "not known"),
        ("7.2", r"expected compute capability 7\.5 or newer"),
    ],
)
def test_other_names_are_refused_and_near_ones_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target_device(name)


def test_engines_are_built_and_run_where_their_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert target_device("cpu").here
    for at_hand, here, builds in (("8.9", True, True), ("", False, True)):
        monkeypatch.setattr(module, "target_name", lambda at_hand=at_hand: {"gpu": "", "capability": at_hand})
        assert (target_device("RTX 4090").here, target_device("RTX 4090").builds_here) == (here, builds)
        assert not target_device("orin").builds_here, "TensorRT builds for the GPU at hand alone"
