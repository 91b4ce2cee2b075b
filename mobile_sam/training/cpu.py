"""Training on CPUs: sums of gradients in a fixed order, and reuse of freed memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

_settings: Any = torch.utils.deterministic  # its type lacks fill_uninitialized_memory

# Constants of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@contextmanager
def same_order(device: torch.device) -> Iterator[None]:
    """Sum gradients on a CPU in a fixed order.

    By default, threads add to the gradient of `biases[:, index]`, as of attention biases, at the
    same time, so its last bits differ now and then. GPUs are not changed, because a fixed order
    costs time and memory there.
    """
    if device.type != "cpu":
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = _settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    _settings.fill_uninitialized_memory = False  # filling only takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        _settings.fill_uninitialized_memory = fill


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it; return whether that is possible.

    By default glibc maps new memory for each tensor above 32 MiB, and every page causes a fault at
    its first use, which takes a third of a step at 1024 pixels. Results do not change. The process
    needs more memory, because the reused memory is fragmented.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
    return mallopt is not None and all(
        mallopt(option, value) for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    )
