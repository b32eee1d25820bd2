"""build-engines of several bundles of one model, INT8, FP8 and float: each part in the format that is fastest.

All engines of every bundle are built, then rated per part: measured where there is a GPU, else predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from passionsr_trt.engines.build import build_engines, engine_key, versions
from passionsr_trt.engines.bundle.backends import Backend, Builder, Target
from passionsr_trt.engines.bundle.bundles import Bundle, Choice, EngineBundle, OnnxBundle, check_same_model
from passionsr_trt.engines.bundle.manifest import atomic_folder
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder

Seconds = dict[str, dict[str, float]]  # part → label of the bundle → seconds of one run
Rate = Callable[[Sequence[EngineBundle]], Choice]


def check_together(bundles: Sequence[OnnxBundle]) -> None:
    """UserError where bundles are not one model's, wired and made alike, each in a format of its own."""
    first = bundles[0]
    for other in bundles[1:]:
        check_same_model(first, other)
        for what, values in (
            ("wiring", [_wiring(bundle) for bundle in (first, other)]),
            ("size", [bundle.model.size for bundle in (first, other)]),
            ("precision of what is not quantized", [bundle.precision for bundle in (first, other)]),
        ):
            if values[0] != values[1]:
                raise UserError(f"{other.folder}: another {what} than {first.folder}", "", "export both alike")
    labels = [bundle.label for bundle in bundles]
    if len(set(labels)) < len(labels):
        raise UserError(f"bundles of {', '.join(labels)}", "expected one of each format")
    specs = [bundle for bundle in bundles if bundle.spec is not None]
    for bundle in specs[1:]:
        if bundle.spec != specs[0].spec:
            raise UserError(
                f"{bundle.folder}: another spec than {specs[0].folder}", "", "export both from one calibration"
            )


def _wiring(bundle: Bundle) -> list[object]:
    return [replace(part, file="", format="", sites=(), islands=()) for part in bundle.parts]


def key_of_all(bundles: Sequence[OnnxBundle], backend: Backend, target: Target, rated_for: str) -> dict[str, str]:
    """engine_key of a chain of several bundles. rated_for: the GPU that parts were chosen for."""
    keys = [engine_key(bundle, backend, target) for bundle in bundles]
    return {**keys[0], "ONNX bundle": " ".join(key["ONNX bundle"] for key in keys), "chosen for": rated_for}


def build_fastest(
    bundles: Sequence[OnnxBundle],
    output: Path,
    backend: Backend,
    builder: Builder,
    rate: Rate,
    key: Mapping[str, str],
) -> EngineBundle:
    """Build every bundle beside `output`, and chain there (atomically) each part's fastest engine."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output.parent) as scratch:
        candidates = [build_engines(bundle, scratch / bundle.label, backend, builder) for bundle in bundles]
        choice = rate(candidates)
        chosen = fastest(choice.seconds, candidates)
        spec = next(bundle.spec for bundle in (*chosen.values(), *candidates) if bundle.spec is not None)
        parts = tuple(candidate.part(name) for name, candidate in chosen.items())
        quantized = any(site.quantized for part in parts for site in part.sites)
        engines = replace(
            candidates[0],
            spec=spec if quantized else None,
            key=dict(key),
            parts=parts,
            coverage={name: candidate.coverage[name] for name, candidate in chosen.items()},
            proof={},
            versions=versions(),
            choice=choice,
        )
        with atomic_folder(output, "engine-bundle") as folder:
            for name, candidate in chosen.items():
                for file in candidate.listed(candidate.part(name)):
                    (candidate.folder / file).replace(folder / file)
            engines.save(folder)
    return replace(engines, folder=output)


def fastest(
    seconds: Mapping[str, Mapping[str, float]], candidates: Sequence[EngineBundle]
) -> dict[str, EngineBundle]:
    """Part → the candidate whose engine takes the fewest seconds; the first of equal ones."""
    return {
        part.name: min(candidates, key=lambda bundle: seconds[part.name][bundle.label])
        for part in candidates[0].parts
    }


def explain_choice(parts: Sequence[PartInfo], choice: Choice) -> None:
    """Print one line per part: its format, and what every format takes."""
    for part in parts:
        times = ", ".join(f"{label} {took * 1e3:.2f}" for label, took in choice.seconds[part.name].items())
        print(f"{part.name:<12} {part.format.upper()}: {choice.by} on {choice.gpu}, ms: {times}")
