"""Counts of CPUs: those that a process may use, and those that are idle."""

import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

_MOST_CPUS = 8  # of one rank, where neither Snakemake nor SLURM says how many; as the rules ask for
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where processes of PyTorch share tensors
_LEAST_SHARED = 1 << 30  # bytes; containers have 64 MiB unless they are asked for more
_STATISTICS = Path("/proc/stat")


def cpus_of_rank(ranks: int = 1) -> int:
    """Return the number of CPUs for this process and its children, one of `ranks` on this machine.

    It is the minimum of the CPUs that the system allows, those of the SLURM task, and the threads
    of the Snakemake job.
    """
    # Elsewhere OMP_NUM_THREADS says what OpenMP may use alone: torchrun sets it to 1.
    of_job = ["OMP_NUM_THREADS"] if "MOBILE_SAM_JOB" in os.environ else []
    given = [os.environ.get(name, "") for name in ["SLURM_CPUS_PER_TASK", *of_job]]
    limits = [int(text) for text in given if text.isdecimal()]
    own_task = os.environ.get("SLURM_NTASKS", "1") != "1"
    sharing = 1 if own_task else ranks
    return max(1, min([len(_allowed()), *(limits or [_MOST_CPUS * sharing])]) // sharing)


def reading_processes(setting: int | Literal["auto"], device: str, ranks: int = 1) -> int:
    """Return the number of processes that read images for one rank, from `num_workers`.

    device: `cuda` or `cpu`. `auto` is the number of CPUs of the rank with a GPU, and 0 without
    one: on a CPU the model takes most of the time, and reading takes little.
    """
    if setting != "auto":
        return setting
    if device != "cuda":
        return 0
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).total < _LEAST_SHARED:
        log.warning(
            "num_workers auto: one process reads all images, because %s is too small for more; "
            "enlarge it (for a container: --shm-size 8g)",
            _SHARED_MEMORY,
        )
        return 0
    return cpus_of_rank(ranks)


def spin_briefly() -> None:
    """Make waiting OpenMP threads yield their CPU early. Call this before torch is imported.

    By default they spin for long. If another process is busy, they then spin on the CPU that the
    slowest thread needs. Variables that the user has set are kept.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def warn_if_shared(threads: int) -> None:
    """Warn if other processes leave fewer CPUs than training has threads.

    The number of threads is not changed: it affects the last bits of sums, and a resumed run must
    end with the same bits as an uninterrupted one.
    """
    free = free_cpus()
    if free is not None and threads > 1 and free < threads - 0.5:
        log.warning(
            "training uses %d threads, but other processes leave only %.1f CPUs free; for more "
            "speed, set Snakemake's --max-threads, or OMP_NUM_THREADS, to %d",
            *(threads, free, max(1, round(free))),
        )


def free_cpus(seconds: float = 0.2) -> float | None:
    """Return the mean number of idle CPUs that this process may use; None if unknown."""
    if not _STATISTICS.is_file():
        return None
    before = _ticks()
    time.sleep(seconds)
    shares = [
        (idle - before[cpu][0]) / max(1, total - before[cpu][1])
        for cpu, (idle, total) in _ticks().items()
        if cpu in before
    ]
    return sum(shares)


def _ticks() -> dict[int, tuple[int, int]]:
    """Return (idle, all) ticks since boot of each CPU that this process may use."""
    found = {}
    for line in _STATISTICS.read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if number != name and number.isdecimal() and int(number) in _allowed():
            ticks = [int(value) for value in values[:8]]  # later ones are counted in the first
            found[int(number)] = ticks[3] + ticks[4], sum(ticks)
    return found


def _allowed() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
