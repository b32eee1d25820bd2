"""Watch what modules give while a context lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def watching_outputs(watched: Iterable[tuple[nn.Module, Callable[[Tensor], None]]]) -> Iterator[None]:
    """Call each function with every output of its module; afterwards the hooks are gone, whatever happened."""
    handles = []
    try:
        for module, see in watched:

            def hook(
                _module: nn.Module, _args: object, output: Tensor, see: Callable[[Tensor], None] = see
            ) -> None:
                see(output)

            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
