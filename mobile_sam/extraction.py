"""Extraction: the teacher looks at each training image once, in jobs that own whole shards."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from zarr.codecs import Crc32cCodec

from mobile_sam.architectures import feature_channels
from mobile_sam.config import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.index import Index
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.features import DIGEST_BYTES, FeatureError, identity, open_group
from mobile_sam.layout import RunPaths, write_json
from mobile_sam.models.roles import load_teacher
from mobile_sam.models.sam_vit import SamViTEncoder

log = logging.getLogger(__name__)

SHARD = 64  # images; a job owns whole shards
_BATCHES = (16, 8, 4, 2, 1)  # images, as many as memory holds


def plan_extraction(config: RunConfig) -> int:
    """Give each training image a row in the store; returns the number of rows to compute.

    Rows of images that are already there stay. A store in the derived place that belongs to a
    teacher that has since been retrained is deleted; one at a path given by the user is refused.
    """
    paths = RunPaths(config)
    path, expected = paths.features, identity(config)
    digests = list(dict.fromkeys(Index(paths.index, "train").digests()))
    if path.exists():
        try:
            open_group(path, expected)
        except FeatureError as error:
            if config.train_img_dir_teacher_features is not None:
                raise
            log.info("starting the feature store anew: %s", error)
            shutil.rmtree(path)
    if not path.exists():
        _create(path, expected, config)
    group = open_group(path, expected, mode="r+")
    known = {row.tobytes() for row in group["digests"][:]}
    new = [d for d in (bytes.fromhex(digest) for digest in digests) if d not in known]
    if new:
        before = group["digests"].shape[0]
        for array in group.arrays():
            array[1].resize((before + len(new), *array[1].shape[1:]))
        added = np.frombuffer(b"".join(new), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        group["digests"][before:] = added
    missing = int(np.count_nonzero(group["written"][:] == 0))
    write_json(paths.features_plan, {"rows": len(known) + len(new), "missing": missing})
    log.info("%s: %d images, %d to compute", path, len(digests), missing)
    return missing


def _create(path: Path, expected: dict[str, Any], config: RunConfig) -> None:
    channels = feature_channels(expected["teacher_model_type"], config.distill_feature_level)
    side = config.img_size // 16
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    group = zarr.create_group(unfinished)
    group.create_array(
        "features",
        shape=(0, channels, side, side),
        chunks=(1, channels, side, side),
        shards=(SHARD, channels, side, side),
        dtype="float16",
        compressors=[Crc32cCodec()],
    )
    group.create_array(
        "digests", shape=(0, DIGEST_BYTES), chunks=(4096, DIGEST_BYTES), dtype="uint8"
    )
    group.create_array("written", shape=(0,), chunks=(SHARD,), dtype="uint8")
    group.attrs.update(expected)
    unfinished.rename(path)


@dataclass(frozen=True)
class _Shard:
    start: int
    rows: list[int]


def extract_features(config: RunConfig, part: int = 0, parts: int = 1) -> int:
    """Compute the missing rows of every `parts`-th shard, from `part` on; returns their number.

    A shard is written whole, so a killed job goes on with the first shard that is missing.
    """
    paths = RunPaths(config)
    group = open_group(paths.features, identity(config), mode="r+")
    index = Index(paths.index, "train")
    wanted = {bytes.fromhex(digest) for digest in index.digests()}
    digests = group["digests"][:]
    shards = [
        _Shard(start, [i for i in rows if digests[i].tobytes() in wanted])
        for start, rows in _missing_rows(group["written"][:])
        if start // SHARD % parts == part
    ]
    count = sum(len(shard.rows) for shard in shards)
    if count:
        _compute(config, group, index, shards, count)
    write_json(paths.features_part(part), {"part": part, "parts": parts})
    return count


def _compute(config: RunConfig, group: Any, index: Index, shards: list[_Shard], count: int) -> None:
    digests = group["digests"][:]
    positions = {bytes.fromhex(digest): i for i, digest in enumerate(index.digests())}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(config).to(device)
    order = [positions[digests[row].tobytes()] for shard in shards for row in shard.rows]
    loader = DataLoader(
        _Images(index, config.img_size, order),
        batch_size=batch_size(teacher.image_encoder, config.img_size, device),
        num_workers=config.num_workers,
    )
    computed = _stream(teacher.image_encoder, loader, config, device)
    _write_shards(group, shards, computed, count)


class _Images(Dataset[Tensor]):
    def __init__(self, index: Index, img_size: int, order: list[int]) -> None:
        self.index, self.img_size, self.order = index, img_size, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Tensor:
        return image_to_model_frame(read_image(self.index[self.order[i]].path), self.img_size)


def _missing_rows(written: NDArray[np.uint8]) -> Iterator[tuple[int, list[int]]]:
    for start in range(0, len(written), SHARD):
        rows = [start + int(i) for i in np.flatnonzero(written[start : start + SHARD] == 0)]
        if rows:
            yield start, rows


@torch.no_grad()
def batch_size(encoder: nn.Module, img_size: int, device: torch.device) -> int:
    """Images that `encoder` takes at once: all that a GPU's memory holds.

    On a CPU, eight for a small encoder and one for SAM's, whose attention takes gigabytes an image.
    """
    if device.type == "cpu":
        return 1 if isinstance(encoder, SamViTEncoder) else 8
    for size in _BATCHES:
        try:
            with precision(device):
                encoder(torch.zeros(size, 3, img_size, img_size, device=device))
        except torch.OutOfMemoryError:
            continue
        return size
    raise FeatureError(
        f"one image of {img_size} pixels is too much for the teacher in the memory of {device}; "
        "choose a smaller teacher or img_size"
    )


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where a GPU has it; float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def _stream(
    encoder: Any, loader: DataLoader[Tensor], config: RunConfig, device: torch.device
) -> Iterator[NDArray[np.float16]]:
    for images in loader:
        with precision(device):
            features = encoder.features(images.to(device), config.distill_feature_level)
        half = features.half()
        if not torch.isfinite(half).all():
            raise FeatureError("the teacher's features do not fit float16; they are not finite")
        yield from half.cpu().numpy()


def _write_shards(
    group: Any, shards: list[_Shard], computed: Iterator[NDArray[np.float16]], count: int
) -> None:
    done, began = 0, time.monotonic()
    for shard in shards:
        end = min(shard.start + SHARD, group["features"].shape[0])
        block = group["features"][shard.start : end]
        written = group["written"][shard.start : end]
        for row in shard.rows:
            block[row - shard.start] = next(computed)
            written[row - shard.start] = 1
        group["features"][shard.start : end] = block
        group["written"][shard.start : end] = written
        done += len(shard.rows)
        rate = done / (time.monotonic() - began)
        log.info(
            "features %d/%d  %.1f img/s  %.0f s left", done, count, rate, (count - done) / rate
        )


def finish_extraction(config: RunConfig) -> None:
    """Write the manifest once every training image has features; else raise FeatureError."""
    paths = RunPaths(config)
    group = open_group(paths.features, identity(config))
    written = group["written"][:].astype(bool)
    there = {row.tobytes() for row in group["digests"][:][written]}
    digests = Index(paths.index, "train").digests()
    missing = [digest for digest in digests if bytes.fromhex(digest) not in there]
    if missing:
        raise FeatureError(
            f"{paths.features}: {len(missing)} of {len(digests)} images have no features; "
            "run `extract` again"
        )
    write_json(paths.features_manifest, {"images": len(digests), **identity(config)})
