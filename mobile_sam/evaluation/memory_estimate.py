"""Memory that the jobs of a run need, estimated with fake tensors, and settings that fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import needs_features, normalise
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import teacher_configs
from mobile_sam.coordinates import upscale_logits
from mobile_sam.evaluation.encoded import prompts_per_batch
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import ALL, NUM_MASKS
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from mobile_sam.training.batch_size import GIB, SHARE, SIZES, free_memory, largest
from mobile_sam.training.memory_meter import MemoryMeter
from mobile_sam.training.step_memory import StageMemory, ZeroRates, autocast_as_on, float32_as_on


@dataclass(frozen=True)
class Machine:
    """Machine that runs jobs. device: `cuda` or `cpu`; memory: free bytes."""

    device: str
    memory: int

    @property
    def limit(self) -> int:
        """Bytes that tensors may take; the rest is for CUDA, libraries and fragmentation."""
        return int(SHARE * self.memory)


def this_machine(gpu_memory: float | None) -> Machine:
    """Return the first GPU or the CPU with its free memory, or a hypothetical GPU."""
    if gpu_memory is not None:
        return Machine("cuda", int(gpu_memory * GIB))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Machine(device.type, free_memory(device))


def estimate(config: RunConfig, machine: Machine) -> Iterator[str]:
    """Yield the lines of two tables: the peak memory of each job, and training settings that fit.

    If `batch_size` is auto, the size that would be chosen for the machine is used.
    """
    stages, where = normalise(config), {"cuda": "a GPU", "cpu": "a CPU"}[machine.device]
    if config.batch_size == "auto":
        size, _ = largest(config, stages, _sizes(config), machine.device, machine.limit)
        yield f"batch_size auto: {size}"
        config = config.with_batch_size(size)
    free = f"{machine.memory / GIB:.1f} GiB"
    yield f"{where} with {free} free, of which tensors may use {SHARE:.0%}"
    yield ""
    yield "| job | peak, GiB | fits |"
    yield "|---|---|---|"
    peaks = {}
    for stage in stages:
        images = -(-config.images_per_batch // (config.devices * config.num_nodes))
        peaks[stage] = StageMemory(config, stage, machine.device).peak(images)
        yield _row(f"train {stage.directory}", peaks[stage], machine)
    if needs_features(config):
        for teacher in teacher_configs(config):
            peak = extraction_peak(teacher, machine.device)
            yield _row(f"extract {teacher.teacher_model_type}, one image", peak, machine)
    for model_type in _validated(config):
        yield _row(f"validate {model_type}", validation_peak(config, model_type), machine)
    yield ""
    yield from _settings(config, max(peaks, key=lambda stage: peaks[stage]), machine)


def _row(job: str, peak: int, machine: Machine) -> str:
    return f"| {job} | {peak / GIB:.2f} | {'yes' if peak <= machine.limit else 'no'} |"


def _settings(config: RunConfig, stage: Stage, machine: Machine) -> Iterator[str]:
    """Yield the largest batch of a stage that fits, for combinations of memory-saving settings."""
    yield f"Training settings that fit, for {stage.directory}, the stage that needs most memory:"
    yield ""
    yield "| recompute_encoder | decoder_chunk_size | largest batch_size | peak, GiB |"
    yield "|---|---|---|---|"
    passes = sorted(
        {config.decoder_chunk_size, max(1, config.decoder_chunk_size // 4)}, reverse=True
    )
    for again in (False, True):
        for count in passes:
            changes = {"recompute_encoder": again, "decoder_chunk_size": count}
            changed = config.model_copy(update=changes)
            size, peak = largest(changed, [stage], _sizes(config), machine.device, machine.limit)
            fits = str(size) if peak <= machine.limit else "none"
            yield f"| {str(again).lower()} | {count} | {fits} | {peak / GIB:.2f} |"


def _sizes(config: RunConfig) -> list[int]:
    ranks = config.devices * config.num_nodes
    return [size for size in SIZES if size >= ranks] or [ranks]


def _validated(config: RunConfig) -> list[str]:
    """Return the architectures of the models that are validated."""
    teachers = (teacher.teacher_model_type for teacher in teacher_configs(config))
    return list(dict.fromkeys([config.model_type, *(name for name in teachers if name)]))


@torch.no_grad()
def extraction_peak(teacher: RunConfig, device: str) -> int:
    """Return the peak bytes of a teacher that encodes one image; extraction batches what fits."""
    side = teacher.img_size
    with FakeTensorMode(), MemoryMeter() as meter:
        with ZeroRates():
            encoder = build_sam_model(teacher.teacher_model_type or "", side).image_encoder
        meter.peak = meter.bytes
        with autocast_as_on("auto", device), float32_as_on(device):
            encoder.features(torch.zeros(1, 3, side, side), teacher.distill_levels)  # type: ignore[operator]
    return meter.peak


@torch.no_grad()
def validation_peak(config: RunConfig, model_type: str) -> int:
    """Return the peak bytes of validation: a full batch of prompts on a square image."""
    side = config.img_size
    count = prompts_per_batch((side, side), NUM_MASKS)
    with FakeTensorMode(), MemoryMeter() as meter:
        with ZeroRates():
            model = build_sam_model(model_type, side)
        meter.peak = meter.bytes
        embedding = model.image_encoder(torch.zeros(1, 3, side, side))
        labels = torch.tensor([TOP_LEFT, BOTTOM_RIGHT]).repeat(count, 1)
        decoded = model.decode_all(embedding, torch.zeros(count, 2, 2), labels, outputs=ALL)
        upscale_logits(decoded.low_res_logits[:1, :1], side, (side, side))  # one at a time
    return meter.peak
