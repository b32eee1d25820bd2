"""What can be chosen on the page, and the one chain that is open at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.loading import is_onnx, open_engines, open_onnx
from passionsr_trt.runtime.core.chain import Chain, any_scale


@dataclass(frozen=True)
class Offer:
    """label: its name on the page. open: loads it."""

    label: str
    bundle: Bundle
    open: Callable[[], Chain]


def offers(folders: Sequence[Path], provider: str, threads: int, cache: int) -> dict[str, Offer]:
    """Label → offer of each folder: engines, or an ONNX bundle under ONNX Runtime's `provider`."""
    found: dict[str, Offer] = {}
    for folder in folders:
        offer = _offer(folder, provider, threads, cache)
        if offer.label in found:
            offer = Offer(f"{offer.label} in {folder}", offer.bundle, offer.open)
        if offer.label in found:
            raise UserError(f"{folder}: named twice", "expected different engines")
        found[offer.label] = offer
    return found


def _offer(folder: Path, provider: str, threads: int, cache: int) -> Offer:
    if is_onnx(folder):
        onnx = OnnxBundle.load(folder)
        return Offer(f"{onnx.label} (ONNX Runtime, {provider})", onnx, lambda: open_onnx(onnx, threads, provider))
    engines = EngineBundle.load(folder)
    return Offer(
        f"{engines.label} ({engines.backend})", engines, lambda: open_engines(engines, threads, cache=cache)
    )


class EngineChoice:
    """Opens what is asked for and closes what was open before: memory is planned for one chain alone."""

    def __init__(self, available: dict[str, Offer]) -> None:
        self.offers = available
        self._turn = threading.Lock()
        self._open: tuple[str, Chain] | None = None

    @property
    def scales(self) -> tuple[int, ...]:
        """Enlargements to choose from: the first engines' own, others where all take the enlarged picture."""
        bundles = [offer.bundle for offer in self.offers.values()]
        own = bundles[0].model.upscale
        free = all(any_scale(bundle.parts) for bundle in bundles)
        return (own, *(scale for scale in (1, 2, 3, 4) if free and scale != own))

    @property
    def open_label(self) -> str | None:
        """Of what need not be loaded again."""
        return self._open[0] if self._open else None

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait until nobody else works; `check` is called meanwhile and may raise to give up."""
        while not self._turn.acquire(timeout=0.2):
            check()
        try:
            yield
        finally:
            self._turn.release()

    def chain(self, label: str) -> Chain:
        """The engines of that name, for whoever has the turn. UserError where they do not load."""
        if label not in self.offers:
            raise UserError(f"no engines are called {label[:100]}", f"expected {' or '.join(self.offers)}")
        if self._open is None or self._open[0] != label:
            self.close()
            self._open = label, self.offers[label].open()
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened[1].close()
