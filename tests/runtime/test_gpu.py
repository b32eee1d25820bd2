"""The chain on a GPU. What needs one is skipped without; the rest is checked against the real library."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.tensorrt.library import has_driver
from passionsr_trt.runtime.backends.loading import load_engines, open_onnx
from passionsr_trt.runtime.main import main

from tests.conftest import Built

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX")
NO_GPU = pytest.mark.skipif(not has_driver(), reason="no NVIDIA driver: nothing here can run TensorRT engines")
USED = {
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "ICudaEngine": (
        "create_engine_inspector",
        "create_execution_context",
        "create_runtime_config",
        "device_memory_size_v2",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": (
        "execute_async_v3",
        "get_tensor_shape",
        "set_device_memory",
        "set_input_shape",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
    ),
    "IRuntimeConfig": (
        "create_runtime_cache",
        "cuda_graph_strategy",
        "set_execution_context_allocation_strategy",
        "set_runtime_cache",
    ),
    "IRuntimeCache": ("deserialize", "serialize"),
    "EngineInspector": ("execution_context", "get_engine_information"),
    "CudaGraphStrategy": ("WHOLE_GRAPH_CAPTURE",),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "TensorIOMode": ("INPUT",),
    "LayerInformationFormat": ("JSON",),
}


@pytest.mark.parametrize("name", USED)
def test_the_library_has_every_call_that_the_runtime_makes(name: str) -> None:
    missing = [attribute for attribute in USED[name] if not hasattr(getattr(rtx, name), attribute)]
    assert not missing


@pytest.fixture(scope="module")
def engines(small: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's RTX engines, for 64×64 to 128×128, up to two at once."""
    folder = tmp_path_factory.mktemp("rtx") / "engines"
    words = ["build-engines", str(small.onnx_int8), "-o", str(folder), "--backend", "tensorrt-rtx"]
    sizes = ["--size", "128x128", "--min-size", "64x64", "--max-size", "128x128", "--batch", "2"]
    assert main([*words, *sizes, *([] if has_driver() else ["--compute-capability", "8.9"])]) == 0
    return folder


@pytest.mark.skipif(has_driver(), reason="there is a driver")
def test_without_a_gpu_one_line_says_so(
    engines: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", str(photo), "-o", str(tmp_path), "--engines", str(engines)]) == 1
    error = capsys.readouterr().err
    assert "engines for tensorrt-rtx; expected an NVIDIA GPU" in error and "Traceback" not in error


def test_a_missing_execution_provider_is_named(
    small: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["infer", str(photo), "-o", str(tmp_path), "--engines", str(small.onnx_int8)]
    assert main([*words, "--provider", "cpu"]) == 0
    if not has_driver():
        assert main([*words, "--provider", "cuda"]) == 1
        assert "ONNX Runtime has no CUDAExecutionProvider" in capsys.readouterr().err


@pytest.mark.gpu
@NO_GPU
def test_the_chain_on_the_gpu_gives_what_onnx_runtime_gives(engines: Path, small: Built) -> None:
    expected = open_onnx(OnnxBundle.load(small.onnx_int8))
    images = [
        np.random.default_rng(seed).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
        for seed, side in enumerate((128, 128, 64, 128))
    ]
    chain = load_engines(engines)
    found: list[np.ndarray] = []
    seconds: list[dict[str, float]] = []

    def work() -> None:
        for done in chain.stream(chain.parts, ({"image": image} for image in images)):
            found.append(done.tensors[chain.output])
            seconds.append(done.seconds)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == len(images)
    for image, result in zip(images, found, strict=True):
        wanted = expected.run({"image": image}).tensors[chain.output]
        # two executors of one quantized graph part by about a quantization step
        assert np.linalg.norm(result - wanted) / np.linalg.norm(wanted) < 0.05
    assert set(seconds[-1]) == {"vae_encoder", "unet", "vae_decoder"} and min(seconds[-1].values()) > 0
    pair = {"image": np.concatenate(images[:2])}
    wanted = expected.run(pair).tensors[chain.output]
    assert np.linalg.norm(chain.run(pair).tensors[chain.output] - wanted) / np.linalg.norm(wanted) < 0.05
    latent = expected.run({"image": images[0]}, ["latent"]).tensors
    single = chain.run_part(chain.parts[1], latent).tensors["clean_latent"]
    assert np.isfinite(single).all()
    chain.close()
    chain.close()
