"""Import of torch, torchvision and timm in less time: without the compiler of torch.

`torch._dynamo` takes as long to import as torch itself. torchvision and timm import it for one
function and for a decorator, which import it here when they are called.
"""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


@contextmanager
def quick_import() -> Iterator[None]:
    """Defer the import of `torch._dynamo` and pause garbage collection, which finds nothing.

    Other names of the compiler import it at once. Changes nothing if it is imported already.
    """
    enabled, deferred = gc.isenabled(), COMPILER[0] not in sys.modules
    gc.disable()
    if deferred:
        sys.modules |= {name: _Deferred(name) for name in COMPILER}
    try:
        yield
    finally:
        if deferred:
            _forget()
        if gc.get_freeze_count() == 0:  # what was imported counts as old, and is not searched soon
            gc.freeze()
            gc.unfreeze()
        if enabled:
            gc.enable()


def _forget() -> None:
    for name in COMPILER:
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


class _Deferred(ModuleType):
    """Stand-in for a module of `torch._dynamo`."""

    def disable(self, fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        """Mark a function that is not compiled, as torch marks its own."""
        from torch._compile import _disable_dynamo

        return _disable_dynamo(fn, recursive)

    def is_compile_supported(self, device_type: str) -> bool:
        return importlib.import_module(self.__name__).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _forget()
        return getattr(importlib.import_module(self.__name__), name)
