"""Deterministic gradients on CPUs: sums in an order that does not depend on threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

_settings: Any = torch.utils.deterministic  # its type lacks the one that is set here


@contextmanager
def same_order(device: torch.device) -> Iterator[None]:
    """Add up gradients on a CPU in the same order each time.

    The gradient of `biases[:, index]`, as of attention biases, is otherwise added up by all threads
    at once, and now and then differs in its last bits. GPUs are left as they are: there the same
    costs time and memory.
    """
    if device.type != "cpu":
        yield
        return
    asked = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    _settings.fill_uninitialized_memory = False  # it only takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warned)
        _settings.fill_uninitialized_memory = filled
