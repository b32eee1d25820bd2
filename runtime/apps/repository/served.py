"""Inside Triton's Python model: our own chain, tiling and blending; its parts are other models of the repository.

The model's file is a few lines (MODEL); what it needs of Triton is handed in as `utils`, Triton's own
`triton_python_backend_utils`. Pictures are RGB uint8 [H, W, 3]; what comes out is what `infer` writes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from passionsr_trt.engines.bundle.records import decode, read_object
from passionsr_trt.engines.bundle.wiring import ModelInfo, PartInfo
from passionsr_trt.engines.common.errors import UserError, reason_of
from passionsr_trt.engines.pictures.pictures import MAX_PIXELS, MIN_SIDE
from passionsr_trt.runtime.apps.repository.configs import PICTURE_IN, PICTURE_OUT
from passionsr_trt.runtime.core.chain import Arrays, Chain, Done, Limits
from passionsr_trt.runtime.core.planning import Options, check_options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

SETTINGS = "chain.json"
MODEL = '''"""Upscales pictures with the parts beside it; written by `passionsr-trt repository`."""

from pathlib import Path

import triton_python_backend_utils as utils
from passionsr_trt.runtime.apps.repository.served import ServedModel


class TritonPythonModel:
    def initialize(self, args):
        self.served = ServedModel(Path(args["model_repository"], args["model_version"]), utils)

    def execute(self, requests):
        return [self.served.answer(request) for request in requests]
'''

PART = '''"""One part under OpenVINO, by our own runtime; written by `passionsr-trt repository`."""

from pathlib import Path

import triton_python_backend_utils as utils
from passionsr_trt.runtime.apps.repository.served import ServedPart


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self.served = ServedPart(folder, args["model_config"], utils)

    def execute(self, requests):
        return [self.served.answer(request) for request in requests]
'''


@dataclass(frozen=True)
class ServedChain:
    """What stands beside the model's file. models: part → Triton's model; ragged: the parts take any batch."""

    model: ModelInfo
    parts: tuple[PartInfo, ...]
    label: str
    limits: Limits | None
    batch: int | None
    ragged: bool
    models: dict[str, str]
    options: Options


class TritonExecutor:
    """Each part is a request to its Triton model. utils: Triton's; models: part → model; ragged: of any batch."""

    depth = 1

    def __init__(self, utils: Any, models: Mapping[str, str], ragged: bool) -> None:
        self.utils, self.models, self.ragged = utils, dict(models), ragged

    def submit(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> Done:
        tensors, seconds = dict(inputs), {}
        for part in parts:
            start = perf_counter()
            tensors[part.output.name] = self._run(part, part.feed(tensors))
            seconds[part.name] = perf_counter() - start
        return Done({name: tensors[name] for name in keep}, seconds)

    def collect(self, ticket: Done) -> Done:
        return ticket

    def close(self) -> None:
        self.models.clear()

    def _run(self, part: PartInfo, feed: Arrays) -> np.ndarray:
        """One part's output on the host, an array of its own."""
        utils, name = self.utils, self.models[part.name]
        request = utils.InferenceRequest(
            model_name=name,
            requested_output_names=[part.output.name],
            inputs=[utils.Tensor(key, np.ascontiguousarray(x)) for key, x in feed.items()],
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise UserError(f"{name}: {response.error().message()}")
        return np.array(utils.get_output_tensor_by_name(response, part.output.name).as_numpy())


class ServedPart:
    """A part's model where Triton's Python backend runs it: OpenVINO with `infer`'s own settings.

    folder: the model's version, with its model.xml; config: Triton's, as JSON.
    """

    def __init__(self, folder: Path, config: str, utils: Any) -> None:
        from passionsr_trt.engines.openvino.compile import compile_saved

        found = json.loads(config)
        words = {key: value["string_value"] for key, value in found.get("parameters", {}).items()}
        self.utils, self.output = utils, found["output"][0]["name"]
        threads = int(words.get("INFERENCE_NUM_THREADS", "0"))
        self.compiled = compile_saved(folder / "model.xml", threads, words.get("HINT_BF16") == "YES")

    def answer(self, request: Any) -> Any:
        utils = self.utils
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            result = self.compiled(inputs)[0]
        except RuntimeError as error:
            return utils.InferenceResponse(error=utils.TritonError(reason_of(error)))
        return utils.InferenceResponse(output_tensors=[utils.Tensor(self.output, result)])


class ServedModel:
    """What answers requests. folder: the model's version, with `chain.json` as the command wrote it."""

    def __init__(self, folder: Path, utils: Any) -> None:
        self.utils = utils
        self.chain, self.options = open_served(folder, utils)
        check_options(self.options, self.chain)

    def answer(self, request: Any) -> Any:
        """A response for one picture, or one with the line that says what is wrong with it."""
        utils = self.utils
        try:
            pixels = utils.get_input_tensor_by_name(request, PICTURE_IN.name).as_numpy()
            result = super_resolve(self.chain, as_picture(pixels), self.options).image
        except UserError as error:
            return utils.InferenceResponse(error=utils.TritonError(str(error)))
        except Exception as error:  # one request's, whatever it is
            return utils.InferenceResponse(error=utils.TritonError(f"the picture failed ({reason_of(error)})"))
        tensor = utils.Tensor(PICTURE_OUT.name, np.ascontiguousarray(np.asarray(result)))
        return utils.InferenceResponse(output_tensors=[tensor])


def as_picture(pixels: np.ndarray) -> Image.Image:
    """RGB uint8 [H, W, 3] as an image, within the limits of `infer`. UserError for anything else."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UserError(f"{PICTURE_IN.name} is {pixels.dtype} {list(pixels.shape)}", "expected uint8 [H, W, 3]")
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        limits = f"expected sides from {MIN_SIDE} on, at most {MAX_PIXELS / 1e6:.0f} megapixels"
        raise UserError(f"{PICTURE_IN.name} of {width}×{height} pixels", limits)
    return Image.fromarray(pixels)


def open_served(folder: Path, utils: Any) -> tuple[Chain, Options]:
    """The chain whose parts are Triton's models, and how pictures are made."""
    path = folder / SETTINGS
    try:
        served = decode(ServedChain, read_object(path, "what `passionsr-trt repository` wrote"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: missing", "", "make the repository again") from None
    executor = TritonExecutor(utils, served.models, served.ragged)
    chain = Chain(served.model, served.parts, executor, served.label, served.limits, served.batch)
    return chain, served.options
