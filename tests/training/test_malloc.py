"""Freed memory is kept, as glibc's own account of it says."""

import subprocess
import sys

import pytest

ACCOUNT = """
import ctypes, sys, torch
from mobile_sam.training.malloc import keep_freed_memory

class Account(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = mallinfo2().hblkhd
tensor = torch.ones(64 * 2**20)  # 256 MiB
mapped = mallinfo2().hblkhd - before
del tensor
print(mapped // 2**20, mallinfo2().fordblks // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
@pytest.mark.parametrize(("how", "mapped", "kept"), [("keep", 0, 256), ("plain", 256, 0)])
def test_large_tensors_are_not_mapped_and_stay_when_they_are_freed(
    how: str, mapped: int, kept: int
) -> None:
    command = [sys.executable, "-c", ACCOUNT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [int(value) for value in done.stdout.split()]
    assert found == pytest.approx([mapped, kept], abs=64)
