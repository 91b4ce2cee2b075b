"""Batch size for `batch_size: "auto"`: the largest with which training fits into memory."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.stage import Stage
from mobile_sam.data.index.table import Index
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training.step_memory import StageMemory

log = logging.getLogger(__name__)

SHARE = 0.9  # of free memory, for tensors; the rest is for libraries and fragmentation
SIZES = (64, 32, 16, 8, 4, 2, 1)
GIB = 2**30
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


def with_batch_size(config: RunConfig, stage: Stage, key: str, fabric: Fabric) -> RunConfig:
    """Return the settings of a run with a batch size, which is chosen before its first stage.

    Later stages and resumed stages keep it, even on another machine.
    key: key of the stage's resume state.
    """
    if config.batch_size != "auto":
        return config
    size = _recorded_size(config, stage, key)
    if size is None:
        size = fabric.broadcast(_choose_size(config, fabric))
    log.info("batch_size auto: %d images", size)
    return config.with_batch_size(size)


def _recorded_size(config: RunConfig, stage: Stage, key: str) -> int | None:
    resume = RunPaths(config).state(stage) / "resume.pt"
    if resume.is_file():
        content = checkpoint.load(resume)
        if content["key"] == key:
            return int(content["batch_size"])
    if stage.index:
        previous = normalise(config)[stage.index - 1]
        content = checkpoint.load_stage_checkpoint(config, previous, stage.start_from)
        return int(content["batch_size"])
    return None


def _choose_size(config: RunConfig, fabric: Fabric) -> int:
    free = torch.tensor([free_memory(fabric.device, config.devices)], device=fabric.device)
    if fabric.world_size > 1:
        fabric.all_reduce(free, reduce_op="min")
    if not fabric.is_global_zero:
        return 0  # only the choice of the first rank is used
    ranks, least = fabric.world_size, 2 if config.labelled_fraction is not None else 1
    images = len(Index(RunPaths(config).index, "train"))
    sizes = [n for n in SIZES if max(ranks, least) <= n <= images] or [max(ranks, least)]
    limit = int(SHARE * free.item())
    size, peak = largest(config, normalise(config), sizes, fabric.device.type, limit)
    log.info(
        "batch_size auto: %d images need an estimated %.2f GiB of %.2f GiB of free memory",
        *(size, peak / GIB, free.item() / GIB),
    )
    if peak > limit:
        log.warning("even the smallest batch may not fit into memory; lower img_size")
    return size


def largest(
    config: RunConfig, stages: Sequence[Stage], sizes: Sequence[int], device: str, limit: int
) -> tuple[int, int]:
    """Return the largest batch size with which all stages fit into `limit` bytes, and their peak.

    sizes: candidates in falling order, in images per batch over all devices. If none fits, returns
    the last one.
    """
    ranks, index, peak = config.devices * config.num_nodes, 0, 0
    for stage in stages:
        memory = StageMemory(config, stage, device)
        peaks = {index: memory.peak(-(-sizes[index] // ranks))}
        low, high = (index, index) if peaks[index] <= limit else (index + 1, len(sizes) - 1)
        while low < high:
            middle = (low + high) // 2
            peaks[middle] = memory.peak(-(-sizes[middle] // ranks))
            low, high = (low, middle) if peaks[middle] <= limit else (middle + 1, high)
        if low >= len(sizes):
            return sizes[-1], max(peaks.values())
        if low not in peaks:
            peaks[low] = memory.peak(-(-sizes[low] // ranks))
        peak = max(peak if low == index else 0, peaks[low])
        index = low
    return sizes[index], peak


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Return the bytes that this process can still allocate on a device.

    processes: number of processes that share the memory of a CPU.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return min(_available(_MEMINFO), _left_in_cgroup(_CGROUP)) // processes


def _available(meminfo: Path) -> int:
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_cgroup(root: Path, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes left below the memory limits of this process's control group."""
    unlimited = 2**63 - 1
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.is_file() else []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for directory in [root / name for name in names] + [root]:
        limit, used = directory / "memory.max", directory / "memory.current"
        if limit.is_file() and used.is_file():
            text = limit.read_text(encoding="utf-8").strip()
            if text != "max":
                return max(0, int(text) - int(used.read_text(encoding="utf-8")))
    return unlimited
