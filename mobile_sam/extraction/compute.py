"""Computing features: reading, the teacher and writing at the same time, shard by shard."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import ConcatIndex, Index, teacher_images
from mobile_sam.extraction.images import Frames, load_batches
from mobile_sam.extraction.passes import batch_size, teacher_pass
from mobile_sam.extraction.plan import image_digests
from mobile_sam.extraction.shards import (
    Shard,
    missing_shards,
    record_precision,
    set_row,
    write_shard,
)
from mobile_sam.extraction.threads import BackgroundWriter
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.encoding import encode, to_arrays
from mobile_sam.features.identity import identity
from mobile_sam.features.locks import is_read_only, shared_lock, write_lock
from mobile_sam.features.schema import StoredFeatures
from mobile_sam.models.device import default_device, fastest_precision
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import write_json
from mobile_sam.system.cpus import reading_processes

log = logging.getLogger(__name__)

TeacherPass = Callable[[Tensor], dict[str, Tensor]]

_SHARDS_IN_MEMORY = 2  # one is filled while another is written


def extract_features(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Compute the missing rows of every `parts`-th shard, from `part` on; returns their number.

    A shard is written whole, so a killed job goes on with the first shard that is missing.
    """
    count = compute_missing(config, part, parts)
    write_json(RunPaths(config).features_part(part), {"part": part, "parts": parts})
    return count


def compute_missing(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Do the work of `extract_features`, without recording that the part is finished."""
    paths, expected = RunPaths(config), identity(config)
    if is_read_only(paths.features):  # planned, and so complete
        return 0
    # Another project may compute the same part of a shared store; what it has done is not missing.
    with shared_lock(paths.features), write_lock(paths.features, f"part{part}of{parts}"):
        arrays = open_arrays(paths.features, expected, "r+")
        shards = missing_shards(arrays, image_digests(paths.index), part, parts)
        if shards:
            index = teacher_images(paths.index)
            device = default_device()
            record_precision(arrays, fastest_precision(device))
            encoder = load_teacher(config).to(device).image_encoder
            look = partial(teacher_pass, encoder, levels=config.distill_levels)
            size = batch_size(encoder, look, config.img_size, device)
            workers = reading_processes(config.num_workers, device.type)
            fill_shards(arrays, index, shards, look, size, workers, device)
    return sum(len(shard.rows) for shard in shards)


def fill_shards(
    arrays: FeatureArrays,
    index: Index | ConcatIndex,
    shards: list[Shard],
    look: TeacherPass,
    size: int,
    num_workers: int,
    device: torch.device,
) -> None:
    """Compute and write the rows of shards; an interruption leaves whole shards behind.

    look: features (B, C, S/16, S/16) of images (B, 3, S, S), by the name of their level.
    size: most images of a batch; num_workers: processes that read.
    """
    digests, places = arrays.digests(), DigestLookup(index.digests())
    # No batch has images of two shards: what shares a batch is the same after an interruption.
    batches = [
        [places[digests[row]] for row in shard.rows[i : i + size]]
        for shard in shards
        for i in range(0, len(shard.rows), size)
    ]
    images = load_batches(index, arrays.content, batches, num_workers, device)
    computed = _encode_batches(look, images, arrays.dtype, device)
    progress = _Progress(sum(len(shard.rows) for shard in shards))

    def write(item: tuple[Shard, StoredFeatures]) -> None:
        write_shard(arrays, *item)
        progress.add(len(item[0].rows))

    with BackgroundWriter(write, _SHARDS_IN_MEMORY) as writer:
        for shard in shards:
            writer.reserve()
            writer.give((shard, _fill_shard(arrays, shard, computed)))


class _PendingTransfer:
    """Encoded features on their way from the device."""

    def __init__(self, encoded: dict[str, dict[str, Tensor]], device: torch.device) -> None:
        self._tensors = {
            level: {k: v.to("cpu", non_blocking=True) for k, v in tensors.items()}
            for level, tensors in encoded.items()
        }
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def images(self) -> Iterator[StoredFeatures]:
        """Yield the features of each image once all of its views have arrived."""
        if self._event is not None:
            self._event.synchronize()
        stored = {level: to_arrays(tensors) for level, tensors in self._tensors.items()}
        count = len(next(iter(stored.values()))[""])
        for i in range(count):
            yield {level: {k: v[i] for k, v in parts.items()} for level, parts in stored.items()}


def _encode_batches(
    look: TeacherPass, batches: Iterator[Frames], dtype: str, device: torch.device
) -> Iterator[StoredFeatures]:
    """For each image what is stored of it, by level: arrays (V, C, S/16, S/16)."""
    # A batch is waited for when the next is on its way, so that a GPU always has work.
    before: _PendingTransfer | None = None
    for batch in batches:
        views = batch.on(device).unbind(1)
        passes = [look(images) for images in views]
        levels = {name: torch.stack([p[name] for p in passes], 1) for name in passes[0]}
        now = _PendingTransfer({k: encode(v, dtype) for k, v in levels.items()}, device)
        if before is not None:
            yield from before.images()
        before = now
    if before is not None:
        yield from before.images()


def _fill_shard(
    arrays: FeatureArrays, shard: Shard, computed: Iterator[StoredFeatures]
) -> StoredFeatures:
    block = arrays.blank()
    for row in shard.rows:
        set_row(block, row - shard.start, next(computed))
    return block


class _Progress:
    def __init__(self, count: int) -> None:
        self.count, self.done, self.began = count, 0, time.monotonic()

    def add(self, images: int) -> None:
        self.done += images
        rate = self.done / (time.monotonic() - self.began)
        left = (self.count - self.done) / rate
        log.info("features %d/%d  %.1f img/s  %.0f s left", self.done, self.count, rate, left)
