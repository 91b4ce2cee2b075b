"""Choice of the batch size for `batch_size: "auto"`: the largest whose training fits the memory."""

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

SHARE = 0.9  # of the free memory; the rest is for what no tensor holds
SIZES = (64, 32, 16, 8, 4, 2, 1)
GIB = 2**30
_CGROUP, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


def with_batch_size(config: RunConfig, stage: Stage, key: str, fabric: Fabric) -> RunConfig:
    """Return the settings of a run with its batch size, chosen at the start of its first stage.

    Later stages, and a stage that is resumed, on whatever machine, keep what was chosen.
    key: of a resume state that belongs to the stage.
    """
    if config.batch_size != "auto":
        return config
    size = _recorded(config, stage, key)
    if size is None:
        size = fabric.broadcast(_chosen(config, fabric))
    log.info("batch_size auto: %d images", size)
    return config.with_batch_size(size)


def _recorded(config: RunConfig, stage: Stage, key: str) -> int | None:
    resume = RunPaths(config).state(stage) / "resume.pt"
    if resume.is_file():
        content = checkpoint.load(resume)
        if content["key"] == key:
            return int(content["batch_size"])
    if stage.index:
        before = normalise(config)[stage.index - 1]
        return int(checkpoint.load_stage_checkpoint(config, before, stage.start_from)["batch_size"])
    return None


def _chosen(config: RunConfig, fabric: Fabric) -> int:
    free = torch.tensor([free_memory(fabric.device, config.devices)], device=fabric.device)
    if fabric.world_size > 1:
        fabric.all_reduce(free, reduce_op="min")
    if not fabric.is_global_zero:
        return 0  # the first rank's counts
    ranks, least = fabric.world_size, 2 if config.labelled_fraction is not None else 1
    images = len(Index(RunPaths(config).index, "train"))
    sizes = [n for n in SIZES if max(ranks, least) <= n <= images] or [max(ranks, least)]
    limit = int(SHARE * free.item())
    size, peak = largest(config, normalise(config), sizes, fabric.device.type, limit)
    log.info(
        "batch_size auto: %d images take %.2f GiB, as estimated, of %.2f GiB that are free",
        *(size, peak / GIB, free.item() / GIB),
    )
    if peak > limit:
        log.warning("not even the smallest batch is estimated to fit; lower img_size")
    return size


def largest(
    config: RunConfig, stages: Sequence[Stage], sizes: Sequence[int], device: str, limit: int
) -> tuple[int, int]:
    """Return the first of falling `sizes` with which all stages fit `limit` bytes, and their peak.

    sizes: images of a batch over all devices. The last of them where none fits.
    """
    ranks, place, peak = config.devices * config.num_nodes, 0, 0
    for stage in stages:
        memory = StageMemory(config, stage, device)
        peaks = {place: memory.peak(-(-sizes[place] // ranks))}
        low, high = (place, place) if peaks[place] <= limit else (place + 1, len(sizes) - 1)
        while low < high:
            middle = (low + high) // 2
            peaks[middle] = memory.peak(-(-sizes[middle] // ranks))
            low, high = (low, middle) if peaks[middle] <= limit else (middle + 1, high)
        if low >= len(sizes):
            return sizes[-1], max(peaks.values())
        if low not in peaks:
            peaks[low] = memory.peak(-(-sizes[low] // ranks))
        peak = max(peak if low == place else 0, peaks[low])
        place = low
    return sizes[place], peak


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Return the bytes that this process may still take on a device.

    processes: those of this machine, which share the memory of a CPU.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    return min(_available(_MEMINFO), _left_in_cgroup(_CGROUP)) // processes


def _available(meminfo: Path) -> int:
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_cgroup(root: Path, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that the limit of this process's control group leaves."""
    unlimited = 2**63 - 1
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for directory in [root / name for name in names] + [root]:
        limit, used = directory / "memory.max", directory / "memory.current"
        if limit.is_file() and used.is_file():
            text = limit.read_text(encoding="utf-8").strip()
            if text != "max":
                return max(0, int(text) - int(used.read_text(encoding="utf-8")))
    return unlimited
