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
BY_WIDTH = -1
# stated where they are used: what was calibrated before keeps its key
LATER = ("attention", "block_share")


class ByWidth(int):
    """A number of steps that no spec states: `dataclasses.replace` hands it on, and it follows the bits anew."""


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
    (export/calibrate/search.py); `learned` goes on from there and runs DQC (export/calibrate/dqc.py).
    rounding: of weights to codes: `nearest`, or `second_order`, so that errors cancel on the calibration images
    (`range` rounds to the nearest always).
    Of `search` and `learned`:
    let_scale: learn LET's scales; shift: LET's shifts `none`, `free` (where a neighbour absorbs them), or `all`
    (elsewhere an Add, and a Pad in front of a padded convolution);
    explicit: patterns of the ports at which LET may leave an operation in the graph where no neighbour absorbs it;
    explicit_gain: dB of a site's own output error that such an operation has to win where it parts a kernel in two
    (after norm → SiLU, everywhere in an image network; elsewhere it joins its neighbour); below 8 bits it need not
    win any;
    Of `learned` alone:
    granularity: learn a whole `module` (part) at once, or `block` by block, in a fraction of the memory;
    block_share: which of a part's blocks learn, the costliest; the others keep what the search found;
    let_steps, lbq_steps: Adam steps of the stages, for each module or block; lbq_steps BY_WIDTH: none at 8 bits,
    where boundaries that are learned lose to searched ones once weights are rounded in second order, else 48;
    staged: LET first, then LBQ, as DQC does, else both at once;
    output_bias: with the boundaries, learn what is added to a site's bias, which costs an engine nothing;
    settle_steps: Adam steps in which, once weights are rounded, gains of the last part and its output biases
    make up for the errors of the chain; not block by block;
    accumulate: crops whose gradients make one step; learning_rate: of log s, log u and δ/span; seed.
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
    method: str = "range"
    rounding: str = "second_order"
    smooth_alpha: float = 0.5
    let_scale: bool = True
    shift: str = "all"
    explicit: tuple[str, ...] = ("*",)
    explicit_gain: float = 3.0
    let_steps: int = 32
    lbq_steps: int = BY_WIDTH
    staged: bool = True
    output_bias: bool = True
    settle_steps: int = 200
    granularity: str = "module"
    block_share: float = 1.0
    accumulate: int = 1
    learning_rate: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lbq_steps == BY_WIDTH or isinstance(self.lbq_steps, ByWidth):
            eight = self.bits_weights == self.bits_activations == 8
            object.__setattr__(self, "lbq_steps", ByWidth(0 if eight else 48))
        for name, allowed in (
            ("bits_weights", (4, 6, 8)),
            ("bits_activations", (4, 6, 8)),
            ("activation_observer", OBSERVERS),
            ("weight_observer", OBSERVERS),
            ("weight_code_limit", (HALF_RANGE.high, FULL_RANGE.high)),
            ("method", METHODS),
            ("rounding", ROUNDINGS),
            ("granularity", ("module", "block")),
            ("shift", ("none", "free", "all")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(f"spec: {name} is {value!r}", f"expected one of {', '.join(map(str, allowed))}")
        if not 50 < self.percentile <= 100:
            raise UserError(f"spec: percentile is {self.percentile}", "expected more than 50 and at most 100")
        from_zero = ("min_channels", "let_steps", "lbq_steps", "settle_steps")
        least_values = {"dobi_candidates": 1, "accumulate": 1, **dict.fromkeys(from_zero, 0)}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise UserError(f"spec: {name} is {getattr(self, name)}", f"expected at least {least}")
            if getattr(self, name) > MOST:
                raise UserError(f"spec: {name} is {getattr(self, name)}", f"expected at most {MOST}")
        if not 0 <= self.explicit_gain <= 1000:
            raise UserError(f"spec: explicit_gain is {self.explicit_gain}", "expected 0 to 1000 dB")
        if not 0 < self.block_share <= 1:
            raise UserError(f"spec: block_share is {self.block_share}", "expected more than 0, at most 1")
        if self.block_share < 1 and self.granularity != "block":
            raise UserError(
                f"spec: block_share {self.block_share} of a whole module", "expected granularity `block` with it"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"spec: seed is {self.seed}", "expected 0 to 2^63 − 1")
        if not 0 <= self.smooth_alpha <= 1:
            raise UserError(f"spec: smooth_alpha is {self.smooth_alpha}", "expected 0 to 1")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"spec: learning_rate is {self.learning_rate}", "expected more than 0, less than 1")

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

    def allows_explicit(self, port: str) -> bool:
        return _matches(port, self.explicit)

    @property
    def gain_after_silu(self) -> float:
        """explicit_gain, and 0 where quality comes before speed: fewer than 8 bits are no faster."""
        return self.explicit_gain if self.bits_activations == 8 else 0.0

    def to_json(self) -> dict[str, Any]:
        plain = {"exclude": list(self.exclude), "explicit": list(self.explicit), "lbq_steps": int(self.lbq_steps)}
        stated = {"schema_version": SCHEMA_VERSION, **asdict(self), **plain}
        unused = {key for key in LATER if stated[key] == getattr(type(self), key)}
        return {key: value for key, value in stated.items() if key not in unused}

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
