"""Reuse of freed memory on CPUs, because page faults of new memory cost time."""

import ctypes
import sys

# Constants of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


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
