"""The sampler: DDIM (Song et al., 2021) without further noise, as BI-DiffSR's authors run it.

    β_t linear from least_beta to most_beta over T timesteps,  ᾱ_t = Π_{i ≤ t} (1 − β_i)
    t_k = k·(T // steps), k = steps − 1 … 0;  x of the first step is normal noise
    x̂ = clip((x − √(1 − ᾱ_t)·ε)/√ᾱ_t, −1, 1),  ε = network(condition, x, t)
    x' = √ᾱ'·x̂ + √(1 − ᾱ')·ε,  ᾱ' that of the next step, 1 behind the last

Equation 12 with σ = 0, in the form of diffusers' DDIMScheduler: timestep_spacing "leading", clip_sample. 1 − β_t
and ᾱ_t are rounded to float32 as there: 1 − ᾱ_0 is 1.01e-6 for it, not 1e-6. The picture's space is [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from passionsr_trt.engines.common.errors import UserError

MOST_STEPS = 100


@dataclass(frozen=True)
class Step:
    """One step: a part's name, its timestep, and the gains of its arithmetic.

    x̂ = clip(x_gain·x − eps_gain·ε), x' = kept·x̂ + added·ε. result: the name of x'; the last one's is the picture.
    """

    name: str
    timestep: int
    x_gain: float
    eps_gain: float
    kept: float
    added: float
    result: str


@dataclass(frozen=True)
class Ddim:
    """Names as in the authors' configurations, but for `steps`."""

    steps: int
    timesteps: int = 2000
    least_beta: float = 1e-6
    most_beta: float = 1e-2

    def __post_init__(self) -> None:
        _check("timesteps", self.timesteps, 2 <= self.timesteps <= 10_000, "a whole number from 2 to 10000")
        most = min(MOST_STEPS, self.timesteps)
        _check("steps", self.steps, 2 <= self.steps <= most, f"a whole number from 2 to {most}")
        rising = 0 < self.least_beta <= self.most_beta < 1
        _check("least_beta", self.least_beta, rising, "a number > 0, at most most_beta, which is below 1")

    def alphas(self) -> np.ndarray:
        """ᾱ of every timestep, float32."""
        betas = np.linspace(self.least_beta, self.most_beta, self.timesteps).astype(np.float32)
        return np.cumprod((np.float32(1) - betas).astype(np.float64)).astype(np.float32)

    def run(self) -> tuple[Step, ...]:
        """unet_N … unet_1."""
        alphas, apart = self.alphas().astype(np.float64), self.timesteps // self.steps
        steps = []
        for number in reversed(range(self.steps)):
            own, after = float(alphas[number * apart]), float(alphas[(number - 1) * apart]) if number else 1.0
            steps.append(
                Step(
                    name=f"unet_{number + 1}",
                    timestep=number * apart,
                    x_gain=own**-0.5,
                    eps_gain=((1 - own) / own) ** 0.5,
                    kept=after**0.5,
                    added=(1 - after) ** 0.5,
                    result=f"x{number}" if number else "picture",
                )
            )
        return tuple(steps)


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise UserError(f"bidiffsr: {name} is {value!r}", f"expected {expected}")
