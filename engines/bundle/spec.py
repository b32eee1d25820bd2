"""QuantSpec: what is quantized, with how many bits, and how ranges are found. A strict JSON file."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.formats import FULL_RANGE, HALF_RANGE, CodeRange
from passionsr_trt.engines.bundle.records import check_schema, decode, read_object
from passionsr_trt.engines.common.errors import UserError

SCHEMA_VERSION = 1
MOST = 1_000_000  # steps, candidates, crops: more is a slip
OBSERVERS = ("minmax", "percentile", "dobi")
METHODS = ("range", "smoothquant", "search", "learned")
ROUNDINGS = ("nearest", "second_order")
PATTERNS = ("exclude", "unabsorbed")
PICTURES = {"photos": 0.0, "mixed": 0.35, "any": 0.8}
CHOOSE_BY_ERROR = ("search", "learned")  # methods
UNSTATED = -1
# key: what it may be
CHOICES: dict[str, tuple[object, ...]] = {
    "bits_weights": (4, 6, 8),
    "bits_activations": (4, 6, 8),
    "activation_observer": OBSERVERS,
    "weight_observer": OBSERVERS,
    "weight_code_limit": (HALF_RANGE.high, FULL_RANGE.high),
    "method": METHODS,
    "rounding": ROUNDINGS,
    "granularity": ("module", "block"),
    "pictures": tuple(PICTURES),
}
LEAST = {
    "dobi_candidates": 1,
    "accumulate": 1,
    "min_channels": 0,
    "let_steps": 0,
    "lbq_steps": 0,
    "correction_steps": 0,
}


class Unstated(int):
    """A number of steps that no spec states: `dataclasses.replace` hands it on, and it follows the rest anew."""


@dataclass(frozen=True)
class QuantSpec:
    """How a model is quantized.

    bits_weights, bits_activations: 8, 6 or 4; always stored in INT8 containers.
    activation_observer, weight_observer: `minmax`, `percentile` or `dobi` (METHOD of 2DQuant, K candidates).
    percentile: of |x|, for the percentile observer, in (50, 100].
    dobi_candidates: K, the number of boundaries tried.
    weight_code_limit: largest |code| of a weight, 127, or 63 for CPUs whose INT8 kernels saturate (no VNNI).
    min_channels: convolutions with fewer input channels stay float.
    keep_first_last: the first and last convolution of each part stay float.
    exclude: shell patterns of site names (`unet.mid_block.*`) that stay float.
    attention: quantize the products of attention too, by the observer, whatever the method (2DQuant's setting, of
    image networks with windows): to compare with; engines get slower by it.

    method: `range` takes boundaries from the observers; `smoothquant` scales channels by SmoothQuant's rule with
    smooth_alpha and takes full ranges; `search` takes LET and boundaries that are best for every port alone
    (export/calibrate/steps/search.py); `learned` goes on from there and runs DQC (export/calibrate/pipeline.py).
    rounding: of weights to codes: `nearest`, or `second_order`, so that errors cancel on the calibration images
    (`range` rounds to the nearest always).
    Of `search` and `learned`:
    unabsorbed: patterns of the ports at which LET may leave operations in the graph where no neighbour absorbs it:
    a Mul, an Add, and a Pad in front of a shifted convolution that pads;
    unabsorbed_gain: dB of a site's own output error that such an operation has to win where it parts a kernel in
    two (after norm → SiLU, everywhere in an image network; elsewhere it is fused with its neighbour); below 8 bits
    it need not win any;
    Of `learned` alone:
    granularity: learn a whole `module` (part) at once, or `block` by block, in a fraction of the memory;
    block_share: which of a part's blocks learn, the costliest; the others keep what the search found;
    let_steps, lbq_steps: Adam steps of the stages, for each module or block;
    correction_steps: Adam steps of bias correction: once weights are rounded, gains and biases of the last part's
    rows make up for the errors of the chain; not block by block;
    UNSTATED they follow the rest (`_steps`);
    accumulate: crops whose gradients make one step; learning_rate: of log s, log u and δ/span; seed.

    pictures: which pictures count: those like the user's (`photos`); these and drawn ones, text, art, screens and
    noise (`mixed`); drawn ones above all (`any`). What is not clipped of the one makes the other's steps coarser.
    `range` and `smoothquant` see the user's alone: a range that no error chooses covers all that it sees.
    synthetic: the share of the calibration pictures that calibration draws itself (engines/pictures/synthetic.py),
    beside the user's own; none for `photos`.
    """

    bits_weights: int = 8
    bits_activations: int = 8
    activation_observer: str = "dobi"
    weight_observer: str = "minmax"
    percentile: float = 99.99
    dobi_candidates: int = 100
    weight_code_limit: int = 127
    min_channels: int = 16
    keep_first_last: bool = True
    exclude: tuple[str, ...] = ()
    attention: bool = False
    method: str = "search"
    rounding: str = "second_order"
    smooth_alpha: float = 0.5
    unabsorbed: tuple[str, ...] = ("*",)
    unabsorbed_gain: float = 3.0
    let_steps: int = UNSTATED
    lbq_steps: int = UNSTATED
    correction_steps: int = UNSTATED
    granularity: str = "module"
    block_share: float = 1.0
    accumulate: int = 1
    learning_rate: float = 0.02
    seed: int = 0
    pictures: str = "mixed"
    synthetic: float = 0.3

    def __post_init__(self) -> None:
        for name, steps in self._steps().items():
            if getattr(self, name) == UNSTATED or isinstance(getattr(self, name), Unstated):
                object.__setattr__(self, name, Unstated(steps))
        self._check_choices()
        self._check_numbers()
        if self.block_share < 1 and self.granularity != "block":
            raise UserError(
                f"spec: block_share {self.block_share} of a whole module", "expected granularity `block` with it"
            )

    def _steps(self) -> dict[str, int]:
        """Steps where none are stated.

        LBQ: none at 8 bits, where boundaries that are learned lose to searched ones once weights are rounded in
        second order. With drawn pictures, where LET learns every channel's boundary, it takes longer, and bias
        correction, whose steps see a crop of each kind, is shorter.
        """
        eight = self.bits_weights == self.bits_activations == 8
        let, correction = (40, 50) if PICTURES.get(self.pictures) and self.synthetic else (32, 200)
        return {"let_steps": let, "lbq_steps": 0 if eight else 48, "correction_steps": correction}

    def _check_choices(self) -> None:
        """UserError for a value that is none of its key's."""
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(f"spec: {name} is {value!r}", f"expected one of {', '.join(map(str, allowed))}")

    def _check_numbers(self) -> None:
        """UserError for a number out of its key's range."""
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"spec: {name} is {getattr(self, name)}", f"expected at least {least}")
            if getattr(self, name) > MOST:
                raise UserError(f"spec: {name} is {getattr(self, name)}", f"expected at most {MOST}")
        for name, fits, expected in (
            ("percentile", 50 < self.percentile <= 100, "more than 50 and at most 100"),
            ("unabsorbed_gain", 0 <= self.unabsorbed_gain <= 1000, "0 to 1000 dB"),
            ("block_share", 0 < self.block_share <= 1, "more than 0, at most 1"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2^63 − 1"),
            ("smooth_alpha", 0 <= self.smooth_alpha <= 1, "0 to 1"),
            ("learning_rate", 0 < self.learning_rate < 1, "more than 0, less than 1"),
            ("synthetic", 0 <= self.synthetic <= 0.9, "0 to 0.9"),
        ):
            if not fits:
                raise UserError(f"spec: {name} is {getattr(self, name)}", f"expected {expected}")

    @property
    def weight_codes(self) -> CodeRange:
        """±(2^(b-1) - 1), or ±weight_code_limit where that is lower."""
        return CodeRange.within(min(self.weight_code_limit, CodeRange.of_bits(self.bits_weights).high))

    @property
    def weight_code_max(self) -> int:
        """The largest weight code."""
        return self.weight_codes.high

    @property
    def activation_codes(self) -> CodeRange:
        """[-2^(b-1), 2^(b-1) - 1]."""
        return CodeRange.of_bits(self.bits_activations)

    def excludes(self, site: str) -> bool:
        return _matches(site, self.exclude)

    @property
    def drawn_weight(self) -> float:
        """What drawn pictures count for, the user's for the rest to 1; nothing where no error chooses ranges."""
        chosen = self.method in CHOOSE_BY_ERROR and self.synthetic
        return PICTURES[self.pictures] if chosen else 0.0

    def allows_unabsorbed(self, port: str) -> bool:
        return _matches(port, self.unabsorbed)

    @property
    def gain_where_fused(self) -> float:
        """unabsorbed_gain, and 0 where quality comes before speed: fewer than 8 bits are no faster."""
        return self.unabsorbed_gain if self.bits_activations == 8 else 0.0

    def to_json(self) -> dict[str, Any]:
        patterns = {name: list(getattr(self, name)) for name in PATTERNS}
        steps = {name: int(getattr(self, name)) for name in self._steps()}
        return {"schema_version": SCHEMA_VERSION, **asdict(self), **patterns, **steps}

    @classmethod
    def from_json(cls, data: Any, source: str = "spec") -> QuantSpec:
        """Build a spec from parsed JSON; another version is named before an unknown key is."""
        if isinstance(data, dict) and "schema_version" in data:
            data = dict(data)
            check_schema(data.pop("schema_version"), SCHEMA_VERSION, source, "calibrate again")
        return decode(cls, data, source)

    @classmethod
    def load(cls, path: Path) -> QuantSpec:
        try:
            return cls.from_json(read_object(path, "a spec file"), str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file", "expected a spec file") from None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
