"""Reuse of freed memory on CPUs, because page faults of new memory cost time."""

import ctypes
import sys

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it; returns whether it can.

    By itself it maps each tensor above 32 MiB again, and every page costs a fault at its first
    use: at 1024 pixels a third of a step. Numbers do not change; what is kept lies in pieces, so
    that a process needs more memory.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
    return mallopt is not None and all(
        mallopt(option, value) for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    )
