"""TensorRT 10.x, 11.x and TensorRT-RTX: one builder, parametrised by the imported module.

TensorRT-RTX compiles ahead of time for given compute capabilities on a machine with no GPU, so the same
code that builds on a card is exercised anywhere. Networks are strongly typed: the graph's own Q/DQ and
casts decide every type, nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.bundles import OnnxBundle
from passionsr_trt.engines.bundle.formats import check_capabilities
from passionsr_trt.engines.bundle.targets import TensorRTTarget
from passionsr_trt.engines.bundle.wiring import REFERENCE_SIZE, PartInfo, chain_multiple
from passionsr_trt.engines.common.arguments import check_multiple
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.engines.common.figures import Coverage
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.coverage import measure
from passionsr_trt.engines.graph.kernels import save_layers
from passionsr_trt.engines.tensorrt.features import explain, features, network_flags
from passionsr_trt.engines.tensorrt.gpu import jetson_model, target_name
from passionsr_trt.engines.tensorrt.inspector import parse_inspector
from passionsr_trt.engines.tensorrt.layer_log import parse_layers
from passionsr_trt.engines.tensorrt.library import has_driver, load_tensorrt

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class TensorRTPlan:
    """size: image height and width that the engine is tuned for (and fixed to, where min = opt = max).

    batch: as many at once, and any fewer; tuned for that many.
    capabilities: compute capabilities to compile for (TensorRT-RTX only; empty: the GPU at hand).
    workspace_mib: scratch limit, 0 for none. optimization_level: 0 to 5, None for the builder's own.
    timing_cache: a file that is read, and added to, by TensorRT. version_compatible: the engine carries host code.
    """

    backend: str = "tensorrt-rtx"
    size: tuple[int, int] = (REFERENCE_SIZE, REFERENCE_SIZE)
    min_size: tuple[int, int] | None = None
    max_size: tuple[int, int] | None = None
    batch: int = 1
    capabilities: tuple[str, ...] = ()
    workspace_mib: int = 0
    optimization_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False

    def check(self, bundle: OnnxBundle) -> None:
        """UserError where the graphs do not take these sizes or this batch, or a GPU not their format."""
        for part in bundle.parts:
            check_capabilities(part.format, self.capabilities or (target_name().get("capability", ""),))
        fixed, multiple = bundle.model.size, chain_multiple(bundle.parts)
        for size in (self.min_size or self.size, self.size, self.max_size or self.size):
            if fixed is not None and (size != fixed or self.batch > 1):
                raise UserError(
                    f"{bundle.folder}: graphs of {fixed[0]}×{fixed[1]} pixels, one at a time",
                    f"asked for {size[0]}×{size[1]}, {self.batch} at once",
                    "export again without --size for any",
                )
            check_multiple(size, multiple)

    def target(self) -> TensorRTTarget:
        """What the engine was built for, as the manifest records it."""
        return TensorRTTarget(
            size=self.size,
            min_size=self.min_size or self.size,
            max_size=self.max_size or self.size,
            batch=self.batch,
            compute_capabilities=self.capabilities,
            workspace_mib=self.workspace_mib,
            optimization_level=self.optimization_level,
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
            **({} if self.capabilities else target_name()),
        )


def make_logger(trt: Any, path: Path) -> Any:
    """A logger that keeps every message in `path` and remembers errors."""

    class BuildLog(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # a trampoline class crashes without this
            self.file = path.open("w", encoding="utf-8")
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.file.write(f"[{severity}] {message}\n")
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.splitlines()[0])

    return BuildLog()


class TensorRTBuilder:
    """Builds one part at a time; call it as build_engines' `build_part`."""

    def __init__(self, plan: TensorRTPlan) -> None:
        self.plan = plan
        self.trt = load_tensorrt(plan.backend)
        smallest, largest = plan.min_size or plan.size, plan.max_size or plan.size
        if any(not low <= size <= high for low, size, high in zip(smallest, plan.size, largest, strict=True)):
            sizes = ("×".join(map(str, size)) for size in (smallest, plan.size, largest))
            raise UsageError(
                "--min-size {}, --size {}, --max-size {}".format(*sizes), "expected each at least the one before"
            )
        self.features = features(plan.backend, self.trt.__version__, jetson_model() is not None)
        if plan.capabilities:
            self.features.require("foreign_capabilities", "--compute-capability")
        for wanted, name, option in (
            (plan.timing_cache is not None, "timing_cache", "--timing-cache"),
            (plan.version_compatible, "version_compatible", "--version-compatible"),
            (plan.hardware_compatible, "hardware_compatible", "--hardware-compatible"),
        ):
            if wanted:
                self.features.require(name, option)
        for capability in plan.capabilities:
            if capability not in RTX_CAPABILITIES:
                raise UserError(
                    f"compute capability {capability} is not one TensorRT-RTX compiles for",
                    f"expected some of {', '.join(RTX_CAPABILITIES)}",
                )
        if not plan.capabilities and not has_driver():
            raise UserError(
                "no NVIDIA driver here, so no GPU to build for",
                "expected the GPU generation",
                "name it with --compute-capability (tensorrt-rtx only)",
            )

    def __call__(self, bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
        log_path = folder / f"{part.name}.log"
        logger = make_logger(self.trt, log_path)
        try:
            plan = self._serialize(bundle, part, logger)
        finally:
            logger.file.close()
        file = f"{part.name}.engine"
        (folder / file).write_bytes(plan)
        if self.plan.backend == "tensorrt":
            layers, kinds = parse_inspector(self._inspect(plan, part))
        else:
            with log_path.open(encoding="utf-8") as lines:
                layers, kinds = parse_layers(lines)
        if not layers:
            raise UserError(f"{part.name}: the builder printed no layer list", "expected one at verbose level")
        log_path.write_text("".join(_layer_lines(log_path)), encoding="utf-8")
        save_layers(layers, folder / f"{part.name}.layers.json")
        return file, measure(part, layers, kinds)

    def _inspect(self, plan: bytes, part: PartInfo) -> str:
        """The engine inspector's JSON at the plan's size; needs the GPU that the engine is for."""
        trt = self.trt
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UserError(f"{part.name}: the engine cannot be loaded again", "expected the GPU it was built on")
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        for name, shape in part.shapes(self.plan.size, self.plan.batch).items():
            context.set_input_shape(name, shape)
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _serialize(self, bundle: OnnxBundle, part: PartInfo, logger: Any) -> bytes:
        trt = self.trt
        builder = trt.Builder(logger)
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not self._parse(parser, open_graph(bundle, part)):
            problems = [parser.get_error(index).desc().splitlines()[0] for index in range(parser.num_errors)]
            fact, expected, hint = explain(problems, 0)
            raise UserError(f"{part.name}: the ONNX parser refused the graph: {fact}", expected, hint)
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._configure(config)
        if bundle.model.size is None:
            profile = builder.create_optimization_profile()
            plan = self.plan
            sizes = (
                (plan.min_size or plan.size, 1),
                (plan.size, plan.batch),
                (plan.max_size or plan.size, plan.batch),
            )
            for tensor in part.inputs:
                profile.set_shape(tensor.name, *(tensor.at(*size) for size in sizes))
            config.add_optimization_profile(profile)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            fact, expected, hint = explain(logger.errors, self.plan.workspace_mib)
            raise UserError(f"{part.name}: {self.plan.backend} could not build the engine: {fact}", expected, hint)
        if self.plan.timing_cache is not None:
            write_atomic(self.plan.timing_cache, bytes(config.get_timing_cache().serialize()))
        return bytes(serialized)

    def _parse(self, parser: Any, path: Path) -> bool:
        if self.plan.backend == "tensorrt":
            return bool(parser.parse_from_file(str(path)))
        import onnx_ir as ir
        from passionsr_trt.engines.tensorrt.passes.scales import ScalesAfterConvolutions

        model = ScalesAfterConvolutions()(ir.load(path)).model
        # weights outside the graph are read from beside `path`
        return bool(parser.parse(ir.to_proto(model).SerializeToString(), str(path)))

    def _configure(self, config: Any) -> None:
        """The plan's limits and flags."""
        trt, plan = self.trt, self.plan
        if plan.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
        if plan.optimization_level is not None:
            config.builder_optimization_level = plan.optimization_level
        if plan.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if plan.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if plan.timing_cache is not None:
            known = plan.timing_cache.read_bytes() if plan.timing_cache.is_file() else b""
            config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
        if plan.capabilities:
            config.num_compute_capabilities = len(plan.capabilities)
            for index, capability in enumerate(plan.capabilities):
                name = f"SM{capability.replace('.', '')}"
                config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _layer_lines(path: Path) -> list[str]:
    """The log without its per-tactic chatter: warnings, errors and the layer list."""
    with path.open(encoding="utf-8") as lines:
        return [line for line in lines if "LayerType: " in line or "VERBOSE" not in line]
