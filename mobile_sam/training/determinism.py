"""Deterministic gradients on CPUs: sums in an order that does not depend on threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

_settings: Any = torch.utils.deterministic  # its type lacks fill_uninitialized_memory


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
