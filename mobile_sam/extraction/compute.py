"""Computing features: reading, the teacher and writing at the same time, shard by shard."""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from mobile_sam.config import RunConfig
from mobile_sam.data.digests import Places
from mobile_sam.data.index import Index
from mobile_sam.data.joined import Joined, teacher_images
from mobile_sam.extraction.background import Writer
from mobile_sam.extraction.images import loaded
from mobile_sam.extraction.passes import batch_size, teacher_pass
from mobile_sam.extraction.plan import wanted_digests
from mobile_sam.extraction.shards import Shard, missing_shards, put, write_shard
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.encoding import encode, to_parts
from mobile_sam.features.identity import identity
from mobile_sam.features.locks import changing, using
from mobile_sam.features.parts import Stored
from mobile_sam.files import write_json
from mobile_sam.layout import RunPaths
from mobile_sam.models.device import default_device
from mobile_sam.models.roles import load_teacher

log = logging.getLogger(__name__)

Look = Callable[[Tensor], dict[str, Tensor]]

_SHARDS_HELD = 2  # one is filled while another is written


def extract_features(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Compute the missing rows of every `parts`-th shard, from `part` on; returns their number.

    A shard is written whole, so a killed job goes on with the first shard that is missing.
    """
    count = compute_missing(config, part, parts)
    write_json(RunPaths(config).features_part(part), {"part": part, "parts": parts})
    return count


def compute_missing(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """As `extract_features`, without a record that the part is done."""
    paths, expected = RunPaths(config), identity(config)
    # Another project may compute the same part of a shared store; what it has done is not missing.
    with using(paths.features), changing(paths.features, f"part{part}of{parts}"):
        arrays = open_arrays(paths.features, expected, "r+")
        shards = missing_shards(arrays, wanted_digests(paths.index), part, parts)
        if shards:
            index = teacher_images(paths.index)
            device = default_device()
            encoder = load_teacher(config).to(device).image_encoder
            look = partial(teacher_pass, encoder, levels=config.distill_levels)
            size = batch_size(encoder, config.img_size, device)
            fill_shards(arrays, index, shards, look, size, config.num_workers, device)
    return sum(len(shard.rows) for shard in shards)


def fill_shards(
    arrays: FeatureArrays,
    index: Index | Joined,
    shards: list[Shard],
    look: Look,
    size: int,
    num_workers: int,
    device: torch.device,
) -> None:
    """Compute and write the rows of shards; an interruption leaves whole shards behind.

    look: features (B, C, S/16, S/16) of images (B, 3, S, S), by the name of their level.
    size: most images of a batch; num_workers: processes that read.
    """
    digests, places = arrays.digests(), Places(index.digests())
    # No batch has images of two shards: what shares a batch is the same after an interruption.
    batches = [
        [places[digests[row]] for row in shard.rows[i : i + size]]
        for shard in shards
        for i in range(0, len(shard.rows), size)
    ]
    images = loaded(index, arrays.content, batches, num_workers, device)
    computed = _encoded(look, images, arrays.dtype, device)
    progress = _Progress(sum(len(shard.rows) for shard in shards))

    def write(item: tuple[Shard, Stored]) -> None:
        write_shard(arrays, *item)
        progress.add(len(item[0].rows))

    with Writer(write, _SHARDS_HELD) as writer:
        for shard in shards:
            writer.reserve()
            writer.give((shard, _filled(arrays, shard, computed)))


class _Sent:
    """Encoded features on their way from the device."""

    def __init__(self, encoded: dict[str, dict[str, Tensor]], device: torch.device) -> None:
        self._tensors = {
            level: {k: v.to("cpu", non_blocking=True) for k, v in tensors.items()}
            for level, tensors in encoded.items()
        }
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def images(self) -> Iterator[Stored]:
        """What is stored of each image, once all has arrived."""
        if self._event is not None:
            self._event.synchronize()
        stored = {level: to_parts(tensors) for level, tensors in self._tensors.items()}
        count = len(next(iter(stored.values()))[""])
        for i in range(count):
            yield {level: {k: v[i] for k, v in parts.items()} for level, parts in stored.items()}


def _encoded(
    look: Look, batches: Iterator[Tensor], dtype: str, device: torch.device
) -> Iterator[Stored]:
    """For each image what is stored of it, by level: arrays (V, C, S/16, S/16)."""
    # A batch is waited for when the next is on its way, so that a GPU always has work.
    before: _Sent | None = None
    for batch in batches:
        views = batch.to(device, non_blocking=True).unbind(1)
        passes = [look(images) for images in views]
        levels = {name: torch.stack([p[name] for p in passes], 1) for name in passes[0]}
        now = _Sent({k: encode(v, dtype) for k, v in levels.items()}, device)
        if before is not None:
            yield from before.images()
        before = now
    if before is not None:
        yield from before.images()


def _filled(arrays: FeatureArrays, shard: Shard, computed: Iterator[Stored]) -> Stored:
    block = arrays.blank()
    for row in shard.rows:
        put(block, row - shard.start, next(computed))
    return block


class _Progress:
    def __init__(self, count: int) -> None:
        self.count, self.done, self.began = count, 0, time.monotonic()

    def add(self, images: int) -> None:
        self.done += images
        rate = self.done / (time.monotonic() - self.began)
        left = (self.count - self.done) / rate
        log.info("features %d/%d  %.1f img/s  %.0f s left", self.done, self.count, rate, left)
