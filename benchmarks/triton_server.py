"""python benchmarks/triton_server.py ENGINES FOLDER: a repository of OpenVINO engines in NVIDIA's tritonserver.

Needs PyTriton's server, which holds Triton's Python backend alone, in an environment of its own:

    pip install nvidia-pytriton 'tritonclient[grpc,http]' openvino && pip install .

So every model of the repository runs for real, as it was written. OpenVINO's and TensorRT's backends are not
there: of a repository for those, Triton's protobuf reads every config.pbtxt, no more. Told: how many codes of the
pictures differ from the same chain's without Triton, and what a request takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from passionsr_trt.engines.bundle.bundles import EngineBundle
from passionsr_trt.engines.common.arguments import parse_size
from passionsr_trt.runtime.apps.repository.command import RepositoryRequest, repository
from passionsr_trt.runtime.backends.loading import open_engines
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve
from PIL import Image

PORT = 8017
# pictures: larger than the tile, smaller, odd
SIDES = ((75, 112), (200, 180), (24, 32), (97, 65))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path)
    parser.add_argument("folder", type=Path, help="scratch, emptied first")
    parser.add_argument("--size", type=parse_size, default=(192, 192), metavar="HxW")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    models = arguments.folder.absolute() / "models"
    for parts in ("openvino", "python"):
        place = models if parts == "python" else models.with_name("for-openvino")
        repository(RepositoryRequest(arguments.engines, place, size=arguments.size, parts=parts))
        check_configs(place)
    bundle = EngineBundle.load(arguments.engines)
    chain = replace(open_engines(bundle), limits=(arguments.size, arguments.size), batch=1)
    pictures = [smooth(sides, seed) for seed, sides in enumerate(SIDES)]
    with server(models, arguments.folder / "log") as infer:
        for picture in pictures:
            start = time.perf_counter()
            found = infer(np.asarray(picture))
            seconds = time.perf_counter() - start
            result = super_resolve(chain, picture, Options())
            expected = np.asarray(result.image)
            differing = int(np.count_nonzero(found != expected)) if found.shape == expected.shape else -1
            tiled = result.tiles or "untiled"
            print(
                f"{picture.size}: {tiled}; {differing} of {expected.size} codes differ; {seconds:.2f} s",
                flush=True,
            )
        try:
            infer(np.zeros((4, 4, 3), np.uint8))
        except Exception as error:
            print(f"a picture that is too small: {error}")
    return 0


def check_configs(models: Path) -> None:
    """Triton's own protobuf reads them; anything that it does not know is an error."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    for path in sorted(models.glob("*/config.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        shapes = {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)}
        print(f"{config.name}: {config.backend}, {shapes}")


def smooth(sides: tuple[int, int], seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize(sides[::-1], Image.Resampling.BICUBIC)


@contextlib.contextmanager
def server(models: Path, log: Path) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """PyTriton's tritonserver on the repository; gives a function from pixels to pixels."""
    import pytriton
    import tritonclient.http as http

    own = Path(pytriton.__file__).parent / "tritonserver"
    stub = own / "python_backend_stubs" / "{}.{}".format(*sys.version_info) / "triton_python_backend_stub"
    backends = log.with_name("backends")
    shutil.copytree(own / "backends", backends)
    shutil.copyfile(stub, backends / "python" / stub.name)
    (backends / "python" / stub.name).chmod(0o755)
    libraries = [own.parent.parent / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib"]
    # the stub takes its packages from the environment of the first python3 on the path
    path = f"{Path(sys.prefix).absolute() / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "PATH": path}
    words = [str(own / "bin" / "tritonserver"), f"--model-repository={models}", f"--backend-directory={backends}"]
    words += [f"--http-port={PORT}", "--allow-grpc=false", "--allow-metrics=false", "--http-address=127.0.0.1"]
    with log.open("wb") as told, subprocess.Popen(words, stdout=told, stderr=told, env=variables) as process:
        try:
            client = http.InferenceServerClient(f"127.0.0.1:{PORT}", network_timeout=600, connection_timeout=600)
            wait(client, process, log)

            def infer(pixels: np.ndarray) -> np.ndarray:
                asked = http.InferInput("image", list(pixels.shape), "UINT8")
                asked.set_data_from_numpy(pixels)
                found: np.ndarray = client.infer("upscaler", [asked]).as_numpy("picture")
                return found

            yield infer
        finally:
            process.terminate()


def wait(client: object, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if process.poll() is not None:
            raise SystemExit(f"tritonserver ended: see {log}")
        with contextlib.suppress(Exception):
            if client.is_model_ready("upscaler"):  # type: ignore[attr-defined]
                return
        time.sleep(0.5)
    raise SystemExit(f"the model was not ready in two minutes: see {log}")


if __name__ == "__main__":
    sys.exit(main())
