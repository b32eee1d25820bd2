"""Which Python bindings of CUDA drive the GPU: cuda-python's where they are at hand, pycuda where it is asked for.

| $PASSIONSR_CUDA     | is taken                                                    |
| ------------------- | ----------------------------------------------------------- |
| nothing             | cuda-python, where it cannot be imported pycuda             |
| cuda-python, pycuda | that one, or an error                                       |
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
from dataclasses import dataclass

from passionsr_trt.engines.common.errors import NotHereError, UserError, reason_of
from passionsr_trt.engines.common.extras import extra_of, install_hint
from passionsr_trt.runtime.backends.tensorrt.device import Device

VARIABLE = "PASSIONSR_CUDA"
OLDEST = (12, 6, 2)  # the first cuda-python that has cuda.bindings


@dataclass(frozen=True)
class Binding:
    """name: as the variable has it. package: the module whose presence says that it is installed. module: what is
    imported. device: `module:class` of its Device. needs: what its installation takes, as an error says it.
    """

    name: str
    package: str
    module: str
    device: str
    needs: str

    def problem(self) -> str:
        """Why it cannot be imported, in one line; empty where it can."""
        try:
            importlib.import_module(self.module)
        except (ImportError, OSError, RuntimeError) as error:
            return reason_of(error) + (f"; {old}" if (old := self.outdated()) else "")
        return ""

    def outdated(self) -> str:
        """What is here of cuda-python, where that is too old to have these bindings; empty elsewhere."""
        if self is not CUDA_PYTHON:
            return ""
        try:
            version = importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return ""
        known = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
        return f"cuda-python {version} is here, expected 12.6.2 or newer" if known < OLDEST else ""

    def open(self, index: int = 0) -> Device:
        """GPU `index`; UserError where there is none to use."""
        module, _colon, name = self.device.partition(":")
        device: Device = getattr(importlib.import_module(module), name)(index)
        return device


HERE = "passionsr_trt.runtime.backends.tensorrt"
CUDA_PYTHON = Binding(
    "cuda-python",
    "cuda.bindings",
    "cuda.bindings.driver",
    f"{HERE}.cuda_python:CudaPythonDevice",
    "no compiler is needed",
)
PYCUDA = Binding(
    "pycuda", "pycuda", "pycuda.driver", f"{HERE}.pycuda_device:PycudaDevice", "it needs nvcc and curand"
)
BINDINGS = (CUDA_PYTHON, PYCUDA)


def binding() -> Binding:
    """The one to take. NotHereError where none can be imported, UserError where $PASSIONSR_CUDA names none."""
    wanted, names = os.environ.get(VARIABLE, ""), [each.name for each in BINDINGS]
    if wanted and wanted not in names:
        raise UserError(f"${VARIABLE} is {wanted!r}", f"expected {' or '.join(names)}", "or unset it")
    asked = [each for each in BINDINGS if wanted in ("", each.name)]
    problems = []
    for each in asked:
        problem = each.problem()
        if not problem:
            return each
        problems.append(f"{each.name}: {problem}")
    expected = f"expected {' or '.join(each.name for each in asked)}"
    fix = f"{install_hint(extra_of(asked[0].module))}; {asked[0].needs}"
    raise NotHereError(f"nothing here drives the GPU ({', '.join(problems)})", expected, fix)


def open_device(index: int = 0) -> Device:
    """GPU `index` through the bindings to take."""
    return binding().open(index)
