"""TensorRT 10.x, 11.x and TensorRT-RTX: one builder for every library that a backend names.

TensorRT-RTX compiles ahead of time for given compute capabilities on a machine with no GPU, so the same
code that builds on a card is exercised anywhere. Networks are strongly typed: the graph's own Q/DQ and
casts decide every type, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.backends import Backend, TargetOptions, TensorRTTarget
from passionsr_trt.engines.bundle.bundles import Coverage, OnnxBundle
from passionsr_trt.engines.bundle.formats import check_capabilities
from passionsr_trt.engines.bundle.wiring import PartInfo, Size, chain_multiple, reference_size
from passionsr_trt.engines.common.arguments import check_multiple
from passionsr_trt.engines.common.errors import NotHereError, UsageError, UserError
from passionsr_trt.engines.common.writing import write_atomic
from passionsr_trt.engines.graph.checked import open_graph
from passionsr_trt.engines.graph.coverage import measure
from passionsr_trt.engines.graph.kernels import save_layers
from passionsr_trt.engines.tensorrt.features import explain, features, network_flags
from passionsr_trt.engines.tensorrt.gpu import jetson_model, target_name
from passionsr_trt.engines.tensorrt.inspector import parse_inspector, parse_layers
from passionsr_trt.engines.tensorrt.library import has_driver, load_tensorrt

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def target_of(bundles: Sequence[OnnxBundle], options: TargetOptions) -> TensorRTTarget:
    """What engines of these bundles are built for.

    UserError where a graph does not take these sizes or this batch, or a GPU not their format.
    """
    size = options.size or bundles[0].model.size or reference_size(bundles[0].parts)
    low, high = options.min_size or size, options.max_size or size
    here = {} if options.compute_capabilities else target_name()
    for bundle in bundles:
        for part in bundle.parts:
            for name in (part.format, bundle.precision):
                check_capabilities(name, options.compute_capabilities or (here.get("capability", ""),))
        for side in (low, size, high):
            _check_size(bundle, side, options.batch)
    return TensorRTTarget(
        size=size,
        min_size=low,
        max_size=high,
        batch=options.batch,
        compute_capabilities=options.compute_capabilities,
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        **here,
    )


def _check_size(bundle: OnnxBundle, size: Size, batch: int) -> None:
    fixed = bundle.model.size
    if fixed is not None and (size != fixed or batch > 1):
        raise UserError(
            f"{bundle.folder}: graphs of {fixed[0]}×{fixed[1]} pixels, one at a time",
            f"asked for {size[0]}×{size[1]}, {batch} at once",
            "export again without --size for any",
        )
    check_multiple(size, chain_multiple(bundle.parts))


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
    """A Builder: engines with the list of their kernels beside them."""

    def __init__(self, backend: Backend, bundles: Sequence[OnnxBundle], options: TargetOptions) -> None:
        """UserError or UsageError where the library, the GPU or the graphs do not take what is asked for."""
        self.backend, self.timing_cache = backend, options.timing_cache
        self.target = target = target_of(bundles, options)
        self.trt = load_tensorrt(backend)
        sizes = (target.min_size, target.size, target.max_size)
        if any(not low <= size <= high for low, size, high in zip(*sizes, strict=True)):
            words = ("×".join(map(str, size)) for size in sizes)
            raise UsageError(
                "--min-size {}, --size {}, --max-size {}".format(*words), "expected each at least the one before"
            )
        self._check_features()

    def _check_features(self) -> None:
        """UserError for an option that this TensorRT or the GPU at hand does not take."""
        target, known = self.target, features(self.backend, self.trt.__version__, jetson_model() is not None)
        for wanted, name, option in (
            (bool(target.compute_capabilities), "foreign_capabilities", "--compute-capability"),
            (self.timing_cache is not None, "timing_cache", "--timing-cache"),
            (target.version_compatible, "version_compatible", "--version-compatible"),
            (target.hardware_compatible, "hardware_compatible", "--hardware-compatible"),
        ):
            if wanted:
                known.require(name, option)
        for capability in target.compute_capabilities:
            if capability not in RTX_CAPABILITIES:
                raise UserError(
                    f"compute capability {capability} is not one TensorRT-RTX compiles for",
                    f"expected some of {', '.join(RTX_CAPABILITIES)}",
                )
        if not target.compute_capabilities and not has_driver():
            raise NotHereError(
                "no NVIDIA driver here, so no GPU to build for",
                "expected the GPU generation",
                "name it with --compute-capability (tensorrt-rtx only)",
            )

    def prove(self, _bundle: OnnxBundle, _folder: Path) -> dict[str, float]:
        """Nothing: a GPU's engines are compared where they run (`compare`, `doctor --gpu-report`)."""
        return {}

    def build(self, bundle: OnnxBundle, part: PartInfo, folder: Path) -> tuple[str, Coverage]:
        """Parse, optimize and serialize one part; its kernels are read from the log or from the engine."""
        log_path = folder / f"{part.name}.log"
        logger = make_logger(self.trt, log_path)
        try:
            content = self._serialize(bundle, part, logger)
        finally:
            logger.file.close()
        file = f"{part.name}.engine"
        (folder / file).write_bytes(content)
        if self.backend.compiles_on_gpu:
            with log_path.open(encoding="utf-8") as lines:
                layers, kinds = parse_layers(lines)
        else:
            layers, kinds = parse_inspector(self._inspect(content, part))
        if not layers:
            raise UserError(f"{part.name}: the builder printed no layer list", "expected one at verbose level")
        log_path.write_text("".join(_layer_lines(log_path)), encoding="utf-8")
        save_layers(layers, folder / f"{part.name}.layers.json")
        return file, measure(part, layers, kinds)

    def _inspect(self, content: bytes, part: PartInfo) -> str:
        """The engine inspector's JSON at the target's size; needs the GPU that the engine is for."""
        trt = self.trt
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise UserError(f"{part.name}: the engine cannot be loaded again", "expected the GPU it was built on")
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        for name, shape in part.shapes(self.target.size, self.target.batch).items():
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
            config.add_optimization_profile(self._profile(builder, part))
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            fact, expected, hint = explain(logger.errors, self.target.workspace_mib)
            raise UserError(f"{part.name}: {self.backend} could not build the engine: {fact}", expected, hint)
        if self.timing_cache is not None:
            write_atomic(self.timing_cache, bytes(config.get_timing_cache().serialize()))
        return bytes(serialized)

    def _profile(self, builder: Any, part: PartInfo) -> Any:
        """The sizes and batches that a part's inputs may have."""
        target, profile = self.target, builder.create_optimization_profile()
        sizes = ((target.min_size, 1), (target.size, target.batch), (target.max_size, target.batch))
        for tensor in part.inputs:
            profile.set_shape(tensor.name, *(tensor.at(*size) for size in sizes))
        return profile

    def _parse(self, parser: Any, path: Path) -> bool:
        if not self.backend.compiles_on_gpu:
            return bool(parser.parse_from_file(str(path)))
        import onnx_ir as ir
        from passionsr_trt.engines.tensorrt.passes.scales import ScalesAfterConvolutions

        model = ScalesAfterConvolutions()(ir.load(path)).model
        # weights outside the graph are read from beside `path`
        return bool(parser.parse(ir.to_proto(model).SerializeToString(), str(path)))

    def _configure(self, config: Any) -> None:
        """The target's limits and flags."""
        trt, target = self.trt, self.target
        if target.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        if target.optimization_level is not None:
            config.builder_optimization_level = target.optimization_level
        if target.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if target.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if self.timing_cache is not None:
            known = self.timing_cache.read_bytes() if self.timing_cache.is_file() else b""
            config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
        if target.compute_capabilities:
            config.num_compute_capabilities = len(target.compute_capabilities)
            for index, capability in enumerate(target.compute_capabilities):
                name = f"SM{capability.replace('.', '')}"
                config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _layer_lines(path: Path) -> list[str]:
    """The log without its per-tactic chatter: warnings, errors and the layer list."""
    with path.open(encoding="utf-8") as lines:
        return [line for line in lines if "LayerType: " in line or "VERBOSE" not in line]
