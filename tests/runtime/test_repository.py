"""repository: what is written for Triton, and that the chain behind it is ours.

Triton itself is not here: `Utils` stands in for its Python module and hands requests to the parts' models, which
proves our own wiring and nothing of Triton. benchmarks/triton_server.py runs the same in NVIDIA's server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from passionsr_trt.engines.bundle.backends import TENSORRT, TENSORRT_RTX, Backend, TensorRTTarget
from passionsr_trt.engines.bundle.bundles import Coverage, EngineBundle
from passionsr_trt.runtime.apps.repository.served import ServedModel, ServedPart
from passionsr_trt.runtime.backends.loading import open_engines
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import Built

ov = pytest.importorskip("openvino")
SIZE = (192, 192)


class Utils:
    """Of `triton_python_backend_utils` what we use; `models` are those of a repository."""

    TRITONSERVER_MEMORY_CPU = 0
    PreferredMemory = staticmethod(lambda kind, device: (kind, device))
    TritonError = staticmethod(str)

    def __init__(self, models: Path) -> None:
        self.models, self.asked = models, list[str]()
        self.parts: dict[str, ServedPart] = {}

    def Tensor(self, name: str, array: np.ndarray) -> Any:
        return SimpleNamespace(name=lambda: name, as_numpy=lambda: array)

    def get_input_tensor_by_name(self, request: Any, name: str) -> Any:
        return request[name]

    def get_output_tensor_by_name(self, response: Any, name: str) -> Any:
        return response.outputs[name]

    def InferenceResponse(self, output_tensors: Any = (), error: str | None = None) -> Any:
        outputs = {tensor.name(): tensor for tensor in output_tensors}
        return SimpleNamespace(outputs=outputs, failed=error, has_error=lambda: error is not None)

    def InferenceRequest(
        self, model_name: str, requested_output_names: list[str], inputs: list[Any], preferred_memory: Any
    ) -> Any:
        def run() -> Any:
            self.asked.append(model_name)
            if model_name not in self.parts:
                folder = self.models / model_name
                text = (folder / "config.pbtxt").read_text()
                output = re.findall(r'name: "(\w+)" data_type', text)[-1]
                words = dict(re.findall(r'key: "(\w+)" value: { string_value: "(\w+)"', text))
                config = {
                    "output": [{"name": output}],
                    "parameters": {k: {"string_value": v} for k, v in words.items()},
                }
                self.parts[model_name] = ServedPart(folder / "1", json.dumps(config), self)
            return self.parts[model_name].answer(SimpleNamespace(inputs=lambda: inputs))

        return SimpleNamespace(exec=run)


@pytest.fixture(scope="module")
def models(small: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository") / "models"
    assert main(["repository", str(small.engines_int8), "-o", str(folder), "--size", "192x192"]) == 0
    return folder


def ask(models: Path, pixels: np.ndarray) -> tuple[Any, Utils]:
    utils = Utils(models)
    served = ServedModel(models / "upscaler" / "1", utils)
    return served.answer({"image": utils.Tensor("image", pixels)}), utils


@pytest.mark.parametrize("sides", [(75, 112), (24, 32)])
def test_the_picture_is_the_chains(models: Path, small: Built, photo: Path, sides: tuple[int, int]) -> None:
    with Image.open(photo) as image:
        picture = image.convert("RGB").crop((0, 0, *sides[::-1]))
    chain = replace(open_engines(EngineBundle.load(small.engines_int8)), limits=(SIZE, SIZE), batch=1)
    expected = super_resolve(chain, picture, Options())
    response, utils = ask(models, np.asarray(picture))
    assert np.array_equal(response.outputs["picture"].as_numpy(), np.asarray(expected.image))
    assert set(utils.asked) == {f"upscaler-{part.name}" for part in chain.parts}
    assert (expected.tiles is not None) == (sides[0] * 2 > SIZE[0] or sides[1] * 2 > SIZE[1])


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 40, 3), np.uint8), np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)]
)
def test_what_is_no_picture_is_an_answer_too(models: Path, pixels: np.ndarray) -> None:
    response, utils = ask(models, pixels)
    assert "; expected " in response.failed and not utils.asked


def test_a_part_that_fails_is_that_requests_line(models: Path) -> None:
    utils = Utils(models)
    served = ServedModel(models / "upscaler" / "1", utils)
    error = SimpleNamespace(message=lambda: "out of memory")
    utils.InferenceRequest = lambda **_: SimpleNamespace(  # type: ignore[method-assign]
        exec=lambda: SimpleNamespace(has_error=lambda: True, error=lambda: error)
    )
    response = served.answer({"image": utils.Tensor("image", np.zeros((40, 40, 3), np.uint8))})
    assert response.failed == "upscaler-vae_encoder: out of memory"


def test_configurations_say_the_parts_tensors(
    small: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    words = ["repository", str(small.engines_int8), "-o", str(models), "--size", "192x192", "--parts", "openvino"]
    assert main(words) == 0
    assert "computes in bfloat16 on CPUs that have it" in capsys.readouterr().err
    for part in EngineBundle.load(small.engines_int8).parts:
        text = (models / f"upscaler-{part.name}" / "config.pbtxt").read_text()
        assert f'name: "upscaler-{part.name}"' in text and 'backend: "openvino"' in text
        for tensor in (*part.inputs, part.output):
            assert f'{{ name: "{tensor.name}" data_type: TYPE_FP32 dims: {list(tensor.at(SIZE))} }}' in text
        model = ov.Core().read_model(str(models / f"upscaler-{part.name}" / "1" / "model.xml"))
        assert [port.any_name for port in model.inputs] == [tensor.name for tensor in part.inputs]
        assert list(model.outputs[0].shape) == list(part.output.at(SIZE))
    program = (models / "upscaler" / "1" / "model.py").read_text()
    compile(program, "model.py", "exec")
    assert "sites" in (settings := json.loads((models / "upscaler" / "1" / "chain.json").read_text()))["parts"][0]
    assert settings["parts"][0]["sites"] == [] and settings["limits"] == [list(SIZE)] * 2


def test_servers_without_vnni_get_codes_that_they_compute_exactly(small: Built, tmp_path: Path) -> None:
    def largest(folder: Path) -> int:
        model = ov.Core().read_model(str(folder / "upscaler-unet" / "1" / "model.xml"))
        codes = [
            op.data for op in model.get_ops() if op.get_type_name() == "Constant" and op.data.dtype == np.int8
        ]
        return max(int(np.abs(code.astype(int)).max()) for code in codes if code.ndim > 1)

    for limit, words in ((63, ["--weight-code-limit", "63"]), (127, ["--weight-code-limit", "127"])):
        engines = str(small.engines_int8)
        assert main(["repository", engines, "-o", str(tmp_path / str(limit)), "--size", "64x64", *words]) == 0
        assert largest(tmp_path / str(limit)) <= limit


def pretend(backend: Backend) -> Callable[[Built, Path], Path]:
    """A bundle for TensorRT without its engines' content: what is read is its manifest."""

    def make(small: Built, folder: Path) -> Path:
        folder.mkdir()
        bundle = EngineBundle.load(small.engines_fp32)
        target = TensorRTTarget((512, 512), (64, 64), (640, 640), 4, (), 0, None, False, False)
        for part in bundle.parts:
            (folder / f"{part.name}.engine").write_bytes(b"none")
        parts = tuple(replace(part, file=f"{part.name}.engine") for part in bundle.parts)
        coverage = {part.name: Coverage(0, 0, 0.0) for part in parts}
        replace(bundle, backend=backend, target=target, parts=parts, coverage=coverage).save(folder)
        return folder

    return make


def test_tensorrt_has_its_own_sizes(small: Built, tmp_path: Path) -> None:
    engines = pretend(TENSORRT)(small, tmp_path / "engines")
    assert main(["repository", str(engines), "-o", str(tmp_path / "models"), "--name", "sr"]) == 0
    text = (tmp_path / "models" / "sr-unet" / "config.pbtxt").read_text()
    assert 'backend: "tensorrt"' in text and "dims: [-1, 4, -1, -1]" in text and "KIND_GPU" in text
    assert (tmp_path / "models" / "sr-unet" / "1" / "model.plan").read_bytes() == b"none"
    served = ServedModel(tmp_path / "models" / "sr" / "1", Utils(tmp_path))
    assert served.chain.limits == ((64, 64), (640, 640)) and served.chain.batch == 4
    assert main(["repository", str(engines), "-o", str(tmp_path / "other"), "--size", "64x64"]) == 2


def test_what_triton_cannot_load_is_refused(
    small: Built, tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = pretend(TENSORRT_RTX)(small, tmp_path / "engines")
    assert main(["repository", str(engines), "-o", str(tmp_path / "models")]) == 1
    assert "TensorRT-RTX, which no backend of Triton loads" in capsys.readouterr().err
    openvino = str(small.engines_int8)
    assert main(["repository", openvino, "-o", str(models)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["repository", openvino, "-o", str(tmp_path / "models"), "--size", "100x100"]) == 2
    assert main(["repository", openvino, "-o", str(tmp_path / "models"), "--name", "../up"]) == 2
    assert not (tmp_path / "models").exists() and not (tmp_path / "up").exists()
