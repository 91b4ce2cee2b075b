"""Numbers of CPUs: those that a process may use, and those that are idle."""

import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

_DEFAULT_CPUS = 8  # of a rank if neither Snakemake nor SLURM sets a number; a rule requests as many
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where processes of PyTorch share tensors
_LEAST_SHARED = 1 << 30  # bytes; containers have 64 MiB unless they are asked for more
_STATISTICS = Path("/proc/stat")


def cpus_of_rank(ranks: int = 1) -> int:
    """Return the number of CPUs for this process and its children, one of `ranks` on this machine.

    This is the minimum of the CPUs that the system allows, the CPUs of the SLURM task, and the
    threads of the Snakemake job.
    """
    # Outside of Snakemake, OMP_NUM_THREADS limits OpenMP only: torchrun sets it to 1.
    names = ["SLURM_CPUS_PER_TASK"]
    names += ["OMP_NUM_THREADS"] if "MOBILE_SAM_JOB" in os.environ else []
    values = [os.environ.get(name, "") for name in names]
    limits = [int(text) for text in values if text.isdecimal()]
    has_own_task = os.environ.get("SLURM_NTASKS", "1") != "1"
    sharing = 1 if has_own_task else ranks
    return max(1, min([len(_allowed()), *(limits or [_DEFAULT_CPUS * sharing])]) // sharing)


def reading_processes(setting: int | Literal["auto"], device: str, ranks: int = 1) -> int:
    """Return the number of processes that read images for one rank, from `num_workers`.

    device: `cuda` or `cpu`. With a GPU, `auto` is the number of CPUs of the rank. Without one it is
    0, because the model then takes most of the time and reading takes little.
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

    By default they spin for a long time. If another process is busy, they spin on the CPU that the
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
    result = {}
    for line in _STATISTICS.read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if number != name and number.isdecimal() and int(number) in _allowed():
            ticks = [int(value) for value in values[:8]]  # ticks of guests are included in these
            result[int(number)] = ticks[3] + ticks[4], sum(ticks)
    return result


def _allowed() -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
