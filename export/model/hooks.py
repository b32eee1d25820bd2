"""What is there while a context lasts, and gone afterwards, whatever happened: hooks, and attached quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are set one by one as the context begins."""
    own: list[RemovableHandle] = []
    try:
        own.extend(handles)
        yield
    finally:
        for handle in own:
            handle.remove()


def watching_outputs(
    watched: Iterable[tuple[nn.Module, Callable[[Tensor], None]]],
) -> AbstractContextManager[None]:
    """Call each function with every output of its module while the context lasts."""

    def hook(see: Callable[[Tensor], None], _module: nn.Module, _args: object, output: Tensor) -> None:
        see(output)

    return hooked(module.register_forward_hook(partial(hook, see)) for module, see in watched)


@contextmanager
def attached(quantizers: Mapping[Any, nn.Module | None]) -> Iterator[None]:
    """Each site or port computes with its quantizer while the context lasts, then with what it had before.

    None: as the float model does.
    """
    before = [(module, module.quantizer) for module in quantizers]
    try:
        for module, quantizer in quantizers.items():
            module.quantizer = quantizer
        yield
    finally:
        for module, quantizer in before:
            module.quantizer = quantizer
