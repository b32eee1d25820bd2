"""Hooks of modules that are there while a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are set one by one as the context begins; afterwards they are gone, whatever happened."""
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
