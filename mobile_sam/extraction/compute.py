"""Computation of features, shard by shard: reads, encodes and writes at the same time."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import View
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import ConcatIndex, Index, read_verified_image, teacher_images
from mobile_sam.data.transforms import normalise, pad_to_frame, resize_image
from mobile_sam.extraction.passes import batch_size, teacher_pass
from mobile_sam.extraction.plan import image_digests
from mobile_sam.extraction.shards import (
    Shard,
    missing_shards,
    record_precision,
    set_row,
    write_shard,
)
from mobile_sam.extraction.threads import BackgroundWriter, read_ahead
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.encoding import encode, to_arrays
from mobile_sam.features.identity import Identity, identity
from mobile_sam.features.locks import is_read_only, shared_lock, write_lock
from mobile_sam.features.schema import StoredFeatures
from mobile_sam.models.device import default_device, fastest_precision
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import write_json
from mobile_sam.system.cpus import reading_processes
from mobile_sam.system.process import loader_options

log = logging.getLogger(__name__)

# Encoder pass: images (B, 3, S, S) to features (B, C, S/16, S/16) by level name.
ForwardPass = Callable[[Tensor], dict[str, Tensor]]

_SHARDS_IN_MEMORY = 2  # one is filled while another is written
_BATCHES_AHEAD = 2


def extract_features(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Compute the missing rows of every `parts`-th shard, from `part` on; return their number.

    Shards are written whole, so that a repeated job continues with the first missing shard.
    """
    count = compute_missing(config, part, parts)
    write_json(RunPaths(config).features_part(part), {"part": part, "parts": parts})
    return count


def compute_missing(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Compute the missing rows as `extract_features` does, without recording a finished part."""
    paths, expected = RunPaths(config), identity(config)
    if is_read_only(paths.features):  # `plan_extraction` accepts it only if it is complete
        return 0
    # Another project may be computing the same part of a shared store; wait for its rows.
    with shared_lock(paths.features), write_lock(paths.features, f"part{part}of{parts}"):
        arrays = open_arrays(paths.features, expected, "r+")
        shards = missing_shards(arrays, image_digests(paths.index), part, parts)
        if shards:
            index = teacher_images(paths.index)
            device = default_device()
            record_precision(arrays, fastest_precision(device))
            encoder = load_teacher(config).to(device).image_encoder
            forward = partial(teacher_pass, encoder, levels=config.distill_levels)
            size = batch_size(encoder, forward, config.img_size, device)
            num_workers = reading_processes(config.num_workers, device.type)
            fill_shards(arrays, index, shards, forward, size, num_workers, device)
    return sum(len(shard.rows) for shard in shards)


def fill_shards(
    arrays: FeatureArrays,
    index: Index | ConcatIndex,
    shards: list[Shard],
    forward: ForwardPass,
    size: int,
    num_workers: int,
    device: torch.device,
) -> None:
    """Compute and write the rows of shards; after an interruption, each shard is whole or missing.

    size: largest number of images in a batch. num_workers: reading processes.
    """
    digests, positions = arrays.digests(), DigestLookup(index.digests())
    # No batch spans two shards, so that batches are the same after an interruption.
    batches = [
        [positions[digests[row]] for row in shard.rows[i : i + size]]
        for shard in shards
        for i in range(0, len(shard.rows), size)
    ]
    images = load_batches(index, arrays.content, batches, num_workers, device)
    features = _encode_batches(forward, images, arrays.dtype, device)
    progress = _ShardProgress(sum(len(shard.rows) for shard in shards))

    def write(item: tuple[Shard, StoredFeatures]) -> None:
        shard, block = item
        write_shard(arrays, shard, block)
        progress.add(len(shard.rows))

    with BackgroundWriter(write, _SHARDS_IN_MEMORY) as writer:
        for shard in shards:
            writer.reserve()
            writer.give((shard, _fill_shard(arrays, shard, features)))


class _ShardProgress:
    """Log after each shard: images done, images per second and seconds left.

    `ProgressLog` counts single items, at an even pace; here, all images of a shard end at once.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()

    def add(self, images: int) -> None:
        self.done += images
        rate = self.done / (time.monotonic() - self.began)
        left = (self.total - self.done) / rate
        log.info("features %d/%d  %.1f img/s  %.0f s left", self.done, self.total, rate, left)


class Frames(NamedTuple):
    """Views of an image in the model frame, or of a batch of images.

    pixels: (..., V, 3, S, S) uint8, 0 on padding. sizes: (..., V, 2), H and W without padding.
    """

    pixels: Tensor
    sizes: Tensor

    def on(self, device: torch.device) -> Tensor:
        """Return the frames on a device, (..., V, 3, S, S), normalised."""
        pixels, sizes = (tensor.to(device, non_blocking=True) for tensor in self)
        return normalise(pixels, sizes)


class TeacherImages(Dataset[Frames]):
    """Images of an index in the given views.

    Raises RecordError for an image whose bytes have changed since indexing, because its features
    are stored under the digest in the index.
    """

    def __init__(self, index: Index | ConcatIndex, img_size: int, views: Sequence[View]) -> None:
        self.index, self.img_size, self.views = index, img_size, views

    def __getitem__(self, position: int) -> Frames:
        record = self.index[position]
        pixels = read_verified_image(record)
        views = [resize_image(_make_view(pixels, view), self.img_size) for view in self.views]
        frames = [pad_to_frame(view, self.img_size) for view in views]
        return Frames(torch.stack(frames), torch.tensor([view.shape[:2] for view in views]))


def _make_view(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return a view of an image (H, W, 3), before it is resized and padded."""
    return np.ascontiguousarray(pixels[:, ::-1]) if view == "hflip" else pixels


def load_batches(
    index: Index | ConcatIndex,
    content: Identity,
    batches: list[list[int]],
    num_workers: int,
    device: torch.device,
) -> Iterator[Frames]:
    """Load batches, given as positions in the index, ahead of their use.

    content: identity of the store, which has the image size and the views.
    """
    loader = DataLoader(
        TeacherImages(index, content["img_size"], content["views"]),
        batch_sampler=batches,
        pin_memory=device.type == "cuda",
        **loader_options(num_workers),
    )
    # Worker processes load ahead by themselves; without workers, a thread does.
    return iter(loader) if num_workers else read_ahead(loader, _BATCHES_AHEAD)


class _PendingTransfer:
    """Encoded features that are being copied from the device."""

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
    forward: ForwardPass, batches: Iterator[Frames], dtype: str, device: torch.device
) -> Iterator[StoredFeatures]:
    """Yield the stored features of each image, by level: arrays (V, C, S/16, S/16)."""
    # Waits for a batch only once the next one is queued, so that a GPU always has work.
    previous: _PendingTransfer | None = None
    for batch in batches:
        views = batch.on(device).unbind(1)
        passes = [forward(images) for images in views]
        levels = {name: torch.stack([p[name] for p in passes], 1) for name in passes[0]}
        current = _PendingTransfer({k: encode(v, dtype) for k, v in levels.items()}, device)
        if previous is not None:
            yield from previous.images()
        previous = current
    if previous is not None:
        yield from previous.images()


def _fill_shard(
    arrays: FeatureArrays, shard: Shard, features: Iterator[StoredFeatures]
) -> StoredFeatures:
    """Return the values of a shard, with the next features in its rows."""
    block = arrays.blank()
    for row in shard.rows:
        set_row(block, row - shard.start, next(features))
    return block
