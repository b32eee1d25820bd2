"""Memory and time that a learned calibration will take on a CUDA device: a prediction from shapes, nothing is run.

    python benchmarks/calibration_predicted.py
    python benchmarks/calibration_predicted.py --model demo/model --pictures 12

Stable Diffusion 2.1's shapes, or a model's own. The real stages run on tensors without numbers (counted.py).

Memory: weights of a part, what is kept of every crop, and what one step holds at its peak; what CUDA and PyTorch
take for themselves, and what the allocator loses between blocks, come on top.
Time: every kernel at the card's peak in float32, whichever of arithmetic and bytes takes longer (gpus.json).
Nothing reaches its peak, and starting kernels costs too: real times are longer. Rounding is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from counted import Counting, Counts, attention_of_cuda
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.bundle.wiring import sources_of
from passionsr_trt.engines.tensorrt import roofline
from passionsr_trt.export.calibrate import dqc
from passionsr_trt.export.calibrate.blockwise import blocks_in_order, run_until
from passionsr_trt.export.calibrate.data import crop_side
from passionsr_trt.export.calibrate.resume import Progress
from passionsr_trt.export.calibrate.stages import Pairs, learned_ports, recomputing, run_stage, stages
from passionsr_trt.export.families.registry import load_model
from passionsr_trt.export.families.stable_diffusion.chain import build_model
from passionsr_trt.export.families.stable_diffusion.checkpoints import SD21
from passionsr_trt.export.families.stable_diffusion.folder import OneStep, OneStepModel
from passionsr_trt.export.families.weights import read_json
from passionsr_trt.export.quantize.modes import Mode
from passionsr_trt.export.quantize.part import Model, Part
from torch import Tensor

CARDS = ("RTX 4070", "RTX 4090", "RTX 5090")  # whose float32 rate is that of TF32, which gpus.json states
META = torch.device("meta")


def sd21() -> Model:
    """Stable Diffusion 2.1's shapes."""
    import diffusers

    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    unet, vae = (kind.from_config(read_json(SD21 / name / "config.json")) for name, kind in kinds.items())
    step = OneStep(timestep=999, prediction="epsilon", scaling_factor=0.18215, upscale=4)
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    return build_model(OneStepModel(Path(), step, 0.0047, text, unet, "AutoencoderKL", vae, 4, ""))


def weights(part: Part) -> int:
    held = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in part.module.state_dict().values()}
    return sum(held.values())


@contextlib.contextmanager
def counted(counting: Counting) -> Iterator[Counts]:
    """Counts of what happens while the context lasts; the peak is above what was there before."""
    before, counts = counting.live, counting.restart()
    yield counts
    counts.peak -= before


def of_part(part: Part, model: Model, spec: QuantSpec, counting: Counting) -> dict[str, Counts]:
    """One crop through every phase of a part."""
    side = crop_side(model.parts, dqc.CROP)
    inputs = tuple(torch.zeros(tensor.at((side, side), 1), device=META) for tensor in part.inputs)
    found: dict[str, Counts] = {}
    with torch.no_grad(), counted(counting) as found["pass"]:
        target = part.module(*inputs)
    with contextlib.ExitStack() as stack:
        with counted(counting) as found["search"]:
            stack.enter_context(dqc.learning(part, spec, [inputs], Progress(None)))
        with torch.no_grad(), counted(counting) as found["quantized pass"]:
            part.module(*inputs)
        found |= steps(part, spec, inputs, target, counting)
    return found


def steps(
    part: Part, spec: QuantSpec, inputs: tuple[Tensor, ...], target: Tensor, counting: Counting
) -> dict[str, Counts]:
    """One step of learning: of the whole part, of it with activations recomputed, and of every block."""
    one = replace(stages(replace(spec, staged=False))[0], steps=1)
    blocks = [(path, block) for path, block in blocks_in_order(part, inputs) if learned_ports(block)]
    found: dict[str, Counts] = {}
    for name, recomputed in (("step", []), ("step, low memory", [block for _path, block in blocks])):
        with counted(counting) as found[name], recomputing(recomputed):
            run_stage(part.module, one, part.name, Pairs([inputs], [target]), spec)
    found["block step"] = Counts()
    found["block passes"] = Counts()
    for path, block in blocks:
        with counted(counting) as passes:
            with part.mode(Mode.FLOAT):
                after = run_until(part, block, inputs, before=False)[0]
            before = run_until(part, block, inputs, before=True)
        with counted(counting) as counts:
            run_stage(block, one, path, Pairs([before], [after]), spec)
        found["block step"].work += counts.work
        found["block passes"].work += passes.work
        found["block step"].peak = max(found["block step"].peak, counts.peak)
    return found


def report(model: Model, spec: QuantSpec, pictures: int, counting: Counting) -> None:
    cards = json.loads(Path(roofline.__file__).with_name("gpus.json").read_text(encoding="utf-8"))
    side = crop_side(model.parts, dqc.CROP)
    kept = [tensor.at((side, side), 1) for tensor in sources_of(model.parts).values()]
    kept += [part.output.at((side, side), 1) for part in model.parts] * 2  # float and quantized
    crops = pictures * sum(4 * torch.Size(shape).numel() for shape in kept)
    print(f"{pictures} crops of {side}×{side}: {crops / 2**30:.2f} GiB kept")
    ways: dict[str, tuple[int, list[tuple[Counts, int]]]] = {}
    learned = (spec.let_steps + spec.lbq_steps) * spec.accumulate
    settling = spec.settle_steps * spec.accumulate
    for part in model.parts:
        whole = learned + (settling if part is model.parts[-1] else 0)
        found = of_part(part, model, spec, counting)
        common = [(found["pass"], 2 * pictures), (found["search"], 1), (found["quantized pass"], 2 * pictures)]
        plans = {
            "a part at a time": ("step", [(found["step"], whole)]),
            "--low-memory": ("step, low memory", [(found["step, low memory"], whole)]),
            "block by block": (
                "block step", [(found["block step"], learned), (found["block passes"], pictures)],
            ),
        }  # fmt: skip
        for way, (step, work) in plans.items():
            peak = weights(part) + crops + max(found[step].peak, found["search"].peak, found["pass"].peak)
            ways.setdefault(way, (0, []))
            ways[way] = (max(ways[way][0], peak), ways[way][1] + common + work)
            held, own = found[step].peak / 2**30, weights(part) / 2**30
            operations = found[step].operations / 1e12
            print(f"{part.name:<12} {way:<18} {own:6.2f} GiB weights, {held:6.2f} a step, {operations:6.2f} TFLOP")
    for way, (peak, work) in ways.items():
        total = sum(counts.operations * times for counts, times in work)
        minutes = [
            sum(c.seconds(cards[card]["float32"] * 1e12, cards[card]["bandwidth"] * 1e9) * n for c, n in work) / 60
            for card in CARDS
        ]
        spans = ", ".join(f"{card} {minute:.1f} min" for card, minute in zip(CARDS, minutes, strict=True))
        print(f"{way:<18} {peak / 2**30:6.1f} GiB, {total / 1e15:.2f} PFLOP; at least {spans}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder; by default Stable Diffusion 2.1's shapes")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--spec", type=Path)
    arguments = parser.parse_args()
    spec = QuantSpec.load(arguments.spec) if arguments.spec else QuantSpec(method="learned")
    counting = Counting()
    if arguments.model:
        model = load_model(arguments.model)
        for part in model.parts:
            part.module.to(META)
    with counting, attention_of_cuda():
        if not arguments.model:
            with META:
                model = sd21()
        counting.answer = 1.0
        report(model, spec, arguments.pictures, counting)


if __name__ == "__main__":
    main()
