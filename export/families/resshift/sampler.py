"""The sampler: ResShift's schedule of T steps, and the affine map that each of its steps is.

    s_1 = min(min_noise/κ, min_noise),  s_t = s_1·(etas_end/s_1)^(((t−1)/(T−1))^power)
    η_t = s_t²,  η_0 = 0,  α_t = η_t − η_{t−1}
    x_T = z_y + κ·s_T·ε
    x̂_t = network(x_t/√(κ²η_t + 1), lr, t − 1)
    x_{t−1} = (η_{t−1}/η_t)·x_t + (α_t/η_t)·x̂_t + κ·√(η_{t−1}·α_t/η_t)·ε_t;  x_0 = x̂_1

ResShift (Yue et al., 2023), equations 7 and 10, as in zsyOAOA/ResShift, models/gaussian_diffusion.py (3ce1d81),
which counts from 0. The schedule is computed in float64. SinSR's copy of it caps s_1 at √0.001, which would be
wrong for models of 4 steps; one step does not ask for s_1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from passionsr_trt.engines.common.errors import UserError

RELEASED = {15: 0.04, 4: 0.2}  # steps → min_noise
MOST_STEPS = 100


@dataclass(frozen=True)
class Step:
    """One step: a part's name, its timestep, κ√η_t, and the gains of x_t, of x0 and of the noise that is drawn."""

    name: str
    timestep: int
    noise_gain: float
    kept: float = 0.0
    taken: float = 1.0
    drawn: float = 0.0

    @property
    def input_gain(self) -> float:
        """1/√(κ²η_t + 1)."""
        return 1 / math.sqrt(self.noise_gain**2 + 1)

    @property
    def noise(self) -> str:
        """The name of the noise that it draws: `noise_15` of `unet_15`."""
        return self.name.replace("unet", "noise")

    @property
    def result(self) -> str:
        """The name of the latent that it gives: `x14` of `unet_15`, `x0` of the last one."""
        return f"x{self.timestep}" if self.drawn else "x0"


@dataclass(frozen=True)
class OneStep:
    """The one step: x_T = z_y + kappa·root_eta·noise at the last of `steps` timesteps.

    root_eta: √η of that step. Released schedules, whatever their power, end with 0.99.
    """

    kappa: float
    root_eta: float
    steps: int

    def __post_init__(self) -> None:
        _check(
            ("kappa", self.kappa, 0 < self.kappa < 1e3, "a number > 0"),
            ("root_eta", self.root_eta, 0 < self.root_eta <= 1, "a number above 0, at most 1"),
            ("steps", self.steps, 1 <= self.steps <= 1000, "a whole number from 1 to 1000"),
        )

    def run(self) -> tuple[Step, ...]:
        return (Step("unet", self.steps - 1, self.kappa * self.root_eta),)


@dataclass(frozen=True)
class Steps:
    """Every timestep of a schedule, the last one first. Names as in the authors' configurations."""

    kappa: float
    min_noise: float
    etas_end: float
    power: float
    steps: int

    def __post_init__(self) -> None:
        _check(
            ("kappa", self.kappa, 0 < self.kappa < 1e3, "a number > 0"),
            ("etas_end", self.etas_end, 0 < self.etas_end <= 1, "a number above 0, at most 1"),
            ("power", self.power, 0 < self.power < 1e2, "a number > 0"),
            ("steps", self.steps, 2 <= self.steps <= MOST_STEPS, f"a whole number from 2 to {MOST_STEPS}"),
        )
        rising = 0 < self.min_noise and self._least < self.etas_end
        _check(("min_noise", self.min_noise, rising, "a number > 0 that begins below etas_end"))

    @property
    def _least(self) -> float:
        return min(self.min_noise / self.kappa, self.min_noise)

    def root_etas(self) -> list[float]:
        """√η of every timestep, from 0 on."""
        least, last = self._least, self.steps - 1
        return [least * (self.etas_end / least) ** ((step / last) ** self.power) for step in range(self.steps)]

    def run(self) -> tuple[Step, ...]:
        """unet_T … unet_1."""
        roots, steps = self.root_etas(), []
        for timestep in reversed(range(self.steps)):
            name, gain = f"unet_{timestep + 1}", self.kappa * roots[timestep]
            if not timestep:
                steps.append(Step(name, timestep, gain))
                continue
            eta, before = roots[timestep] ** 2, roots[timestep - 1] ** 2
            drawn = self.kappa * math.sqrt(before * (eta - before) / eta)
            steps.append(Step(name, timestep, gain, before / eta, (eta - before) / eta, drawn))
        return tuple(steps)


Sampler = OneStep | Steps


def _check(*checks: tuple[str, object, bool, str]) -> None:
    """UserError for the first value that cannot be."""
    for name, value, good, expected in checks:
        if not good:
            raise UserError(f"resshift: {name} is {value!r}", f"expected {expected}")
