"""The proof that every fold has to pass: ‖a − b‖₂ / ‖a‖₂ ≤ 1e-4 in float32, or FoldError."""

from __future__ import annotations

from passionsr_trt.engines.common.errors import UserError
from torch import Tensor

TOLERANCE = 1e-4


class FoldError(UserError):
    """A fold that changed the float model's output; the message names the site."""


def relative_error(reference: Tensor, other: Tensor) -> float:
    """‖reference − other‖₂ / ‖reference‖₂, computed in float64."""
    reference, other = reference.double(), other.double()
    return float((reference - other).norm() / reference.norm().clamp_min(1e-30))


def prove(site: str, reference: Tensor, folded: Tensor, tolerance: float = TOLERANCE) -> float:
    """The relative error of a fold, or FoldError where it passes the tolerance (or is not a number)."""
    error = relative_error(reference, folded)
    if not error <= tolerance:
        raise FoldError(f"{site}: its output changed by {error:.1e}", f"expected ≤ {tolerance:.0e}")
    return error
