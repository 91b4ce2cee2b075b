"""Freed memory is kept, which is seen from outside only: fewer page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mobile_sam.training.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    torch.ones(24 * 2**20).sum()  # 96 MiB
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
def test_large_tensors_are_not_mapped_anew() -> None:
    faults = {}
    for how in ("keep", "plain"):
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["keep"] < 0.5 * faults["plain"]
