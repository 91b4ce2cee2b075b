"""The machine that a cost is measured on: its name, and the memory that is taken of it."""

import platform
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CPUS = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """The model of the GPU, or that of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, at what is in use now; where Linux is not, it goes on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc_pid_clear_refs(5): the peak of the resident size


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or the largest resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        # Not `ru_maxrss`: on Linux a process starts with that of the one that started it.
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].removesuffix("kB")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    if _CPUS.exists():
        for line in _CPUS.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
