"""What can be chosen on the page, and the one chain that is open at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from passionsr_trt.engines.bundle.bundles import Bundle, EngineBundle, OnnxBundle
from passionsr_trt.engines.bundle.wiring import PartInfo
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.runtime.backends.loading import is_onnx, open_engines, open_onnx
from passionsr_trt.runtime.core.chain import Arrays, Chain, any_scale


@dataclass(frozen=True)
class Offer:
    """label: its name on the page. open: loads it. runs: what computes it."""

    label: str
    bundle: Bundle
    open: Callable[[], Chain]
    runs: str

    @property
    def place(self) -> str:
        return str(self.bundle.folder)


def offers(folders: Sequence[Path], provider: str, threads: int, cache: int) -> dict[str, Offer]:
    """Label → offer of each folder: engines, or an ONNX bundle under ONNX Runtime's `provider`.

    A label is the bundle's title; where several have one, what runs them is added, then their folder.
    """
    found = [_offer(folder, provider, threads, cache) for folder in folders]
    for more in ("runs", "place"):
        met = Counter(offer.label for offer in found)
        found = [
            replace(offer, label=f"{offer.label} ({getattr(offer, more)})") if met[offer.label] > 1 else offer
            for offer in found
        ]
    labels = {offer.label: offer for offer in found}
    if len(labels) < len(found):
        twice = next(offer for offer in found if labels[offer.label] is not offer)
        raise UserError(f"{twice.bundle.folder}: named twice", "expected different engines")
    return labels


def _offer(folder: Path, provider: str, threads: int, cache: int) -> Offer:
    if is_onnx(folder):
        onnx = OnnxBundle.load(folder)
        runs = f"ONNX Runtime, {provider}"
        return Offer(onnx.title, onnx, lambda: open_onnx(onnx, threads, provider), runs)
    engines = EngineBundle.load(folder)
    return Offer(
        engines.title, engines, lambda: open_engines(engines, threads, cache=cache), engines.backend.label
    )


@dataclass
class Idle:
    """The executor of a chain that plans are made for, but that cannot run."""

    depth: int
    ragged: bool

    def submit(self, parts: Sequence[PartInfo], inputs: Arrays, keep: Collection[str]) -> NoReturn:
        raise RuntimeError("these engines are not open")

    def collect(self, ticket: Any) -> NoReturn:
        raise RuntimeError("these engines are not open")

    def close(self) -> None: ...


def for_plans(chain: Chain) -> Chain:
    """The chain without what runs it, which may be large; a GPU's memory, which its engines' sizes spare asking,
    belongs to that.
    """
    executor = Idle(chain.executor.depth, chain.executor.ragged)
    return replace(chain, executor=executor, memory=chain.memory if chain.limits is None else None)


class EngineChoice:
    """Opens what is asked for and closes what was open before: memory is planned for one chain alone."""

    def __init__(self, available: dict[str, Offer]) -> None:
        self.offers = available
        self.paces: dict[str, float] = {}  # label → seconds per multiply-accumulate, as it last ran here
        self._turn = threading.Lock()
        self._shapes: dict[str, Chain] = {}
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

    def seconds(self, label: str, work: float) -> float | None:
        """That so many multiply-accumulates will take; None where these engines have not run."""
        return self.paces[label] * work if label in self.paces else None

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait until nobody else works; `check` is called meanwhile and may raise to give up."""
        while not self._turn.acquire(timeout=0.2):
            check()
        try:
            yield
        finally:
            self._turn.release()

    def offer(self, label: str) -> Offer:
        """UserError where nothing is called so."""
        if label not in self.offers:
            raise UserError(f"no engines are called {label[:100]}", f"expected {' or '.join(self.offers)}")
        return self.offers[label]

    def chain(self, label: str) -> Chain:
        """The engines of that name, for whoever has the turn. UserError where they do not load."""
        offer = self.offer(label)
        if self._open is None or self._open[0] != label:
            self.close()
            self._open = label, offer.open()
            self._shapes[label] = for_plans(self._open[1])
        return self._open[1]

    def shape(self, label: str) -> Chain | None:
        """Engines as plans need them, which nobody has to wait for; None where they have never been open."""
        return self._shapes.get(label)

    def close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened[1].close()
