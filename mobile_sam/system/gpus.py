"""GPUs of this machine, found without torch, and their assignment to jobs."""

import fcntl
import itertools
import logging
import os
import re
import subprocess
import tempfile
from pathlib import Path

from mobile_sam.system.errors import UserError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
OFFERED = "MOBILE_SAM_GPUS"  # GPUs of the machine that the workflow's jobs share
_NVIDIA_SMI_SECONDS = 60  # timeout; the driver may have to be loaded first
_held: list[int] = []  # descriptors of locks, which are released when the process ends


def visible_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that CUDA programs may use, as in CUDA_VISIBLE_DEVICES.

    A partitioned GPU (MIG) counts as its partitions. The GPUs are those that `nvidia-smi` lists and
    CUDA_VISIBLE_DEVICES allows; without `nvidia-smi`, those that CUDA_VISIBLE_DEVICES names.
    """
    listed = _listed_gpus()
    requested = os.environ.get(VISIBLE)
    if requested is None:
        return tuple(name for parts in listed for name in parts)
    result: list[str] = []
    for text in requested.split(","):
        name = _match_gpu(text.strip(), listed)
        if name is None or name in result:
            break  # CUDA ignores all entries after a wrong one, too
        result.append(name)
    return tuple(result)


def take_gpus(count: int) -> None:
    """Restrict CUDA in this process to `count` GPUs that no other job of this user has.

    They are chosen among the GPUs that the workflow offers (MOBILE_SAM_GPUS); without an offer, or
    with fewer than `count`, all stay visible. If jobs of another workflow hold all GPUs, the one
    with the fewest jobs is shared. Call this before CUDA starts. Child processes have the same
    GPUs. Raises UserError if the directory of the locks belongs to another user.
    """
    offered = [name for name in os.environ.pop(OFFERED, "").split(",") if name]
    if not 0 < count <= len(offered):
        return
    directory = _lock_directory()
    with (directory / "choice").open("w", encoding="utf-8") as choice:
        # One job chooses at a time; otherwise two jobs could each hold half of what they need.
        fcntl.lockf(choice, fcntl.LOCK_EX)
        taken: list[str] = []
        for jobs, name in ((jobs, name) for jobs in itertools.count() for name in offered):
            if len(taken) == count:
                break
            if name not in taken and _lock(directory / f"{name.replace('/', '_')}.{jobs}"):
                taken.append(name)
                if jobs:
                    log.warning("GPU %s: another job of this user also uses it", name)
    os.environ[VISIBLE] = ",".join(taken)
    log.info("GPU: %s", os.environ[VISIBLE])


def _listed_gpus() -> list[list[str]]:
    """Return the UUID of each GPU of `nvidia-smi -L`, or the UUIDs of its partitions (MIG)."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_NVIDIA_SMI_SECONDS,
        )
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi cannot list the GPUs: %s", error)
        return []
    if done.returncode:  # the driver is not loaded, and CUDA fails as well
        return []
    gpus: list[list[str]] = []
    for line in done.stdout.splitlines():
        uuid = re.search(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", line)
        if uuid and line.startswith("GPU "):
            gpus.append([uuid[1]])
        elif uuid and gpus:
            parts = gpus[-1]
            gpus[-1] = [*(part for part in parts if part.startswith("MIG-")), uuid[1]]
    return gpus


def _match_gpu(text: str, listed: list[list[str]]) -> str | None:
    """Return the name of the GPU that an entry of CUDA_VISIBLE_DEVICES selects; None if none."""
    if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", text):
        return None
    if not listed:
        return text
    if text.isdecimal():  # CUDA's order, which may differ from that of nvidia-smi
        return text if int(text) < len(listed) else None
    return next((name for parts in listed for name in parts if name.startswith(text)), None)


def _lock_directory() -> Path:
    directory = Path(tempfile.gettempdir()) / f"mobile_sam-gpus-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise UserError(
            f"{directory}: the directory belongs to another user; remove it, or set TMPDIR"
        )
    return directory


def _lock(path: Path) -> bool:
    """Lock the file until this process ends; return False if another process holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Not `flock`: forked readers of images would keep that lock after their job is killed.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
