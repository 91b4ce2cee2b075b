"""Care of a store: what is in it, whether it can be read, and computing anew what cannot."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobile_sam.config import RunConfig
from mobile_sam.data.digests import Places, to_hex
from mobile_sam.data.joined import teacher_images
from mobile_sam.extraction.compute import compute_missing
from mobile_sam.extraction.plan import finish_extraction, in_units, wanted_digests, written_digests
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.identity import bytes_per_image, identity, level_shapes
from mobile_sam.features.locks import changing
from mobile_sam.features.parts import DamagedError, FeatureError
from mobile_sam.layout import RunPaths

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0
_MOST_NAMED = 50


@dataclass(frozen=True)
class Damage:
    """A row that cannot be read. image: its path, or its digest where the index has none."""

    row: int
    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.image} (row {self.row}, {self.reason})"


def info(config: RunConfig) -> str:
    """What the store of a run is of and what is in it, in lines for a terminal."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    written, wanted = written_digests(arrays), wanted_digests(paths.index)
    there = int(np.count_nonzero(np.isin(wanted, written)))
    shapes = level_shapes(arrays.content)
    others = int(np.count_nonzero(~np.isin(arrays.digests(), wanted)))
    lines = {
        "store": str(paths.features),
        "teacher": f"{config.teacher_checkpoint} ({config.teacher_model_type}), "
        f"sha256 {arrays.content['teacher_sha256']}",
        "levels": ", ".join(f"{k} {'x'.join(map(str, shape[1:]))}" for k, shape in shapes.items()),
        "image size": f"{config.img_size} px",
        "dtype": arrays.dtype,
        "views": ", ".join(arrays.views),
        "images": f"{there} of the {len(wanted)} in the index, {len(wanted) - there} missing",
        "others": f"{others} images of other indexes or of none",
        "on disk": f"{in_units(size_on_disk(paths.features))}, "
        f"{in_units(bytes_per_image(arrays.content))} an image",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())


def verify(config: RunConfig) -> str:
    """Read every chunk; raise FeatureError that names each image whose features are damaged."""
    path, count, damaged = RunPaths(config).features, *_find_damage(config)
    if damaged:
        named = [str(damage) for damage in damaged[:_MOST_NAMED]]
        if len(damaged) > _MOST_NAMED:
            named.append(f"... and {len(damaged) - _MOST_NAMED} more")
        raise FeatureError(
            "\n  ".join([f"{path}: {len(damaged)} of {count} images are damaged:", *named])
            + "\n`python -m mobile_sam features --repair` computes them anew"
        )
    return f"{path}: all {count} images can be read"


def repair(config: RunConfig) -> str:
    """Compute the features of damaged images anew, and of missing ones; the others stay."""
    paths = RunPaths(config)
    _, damaged = _find_damage(config)
    for damage in damaged:
        log.info("damaged: %s", damage)
    with changing(paths.features):
        arrays = open_arrays(paths.features, identity(config), "r+")
        arrays.forget([damage.row for damage in damaged])
    computed = compute_missing(config)
    finish_extraction(config)
    return f"{paths.features}: damaged images: {len(damaged)}, computed anew: {computed}"


def size_on_disk(path: Path) -> int:
    """Bytes of all files of a store."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _find_damage(config: RunConfig) -> tuple[int, list[Damage]]:
    """How many images have features, and those whose features cannot be read."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    index = teacher_images(paths.index)
    places, digests = Places(index.digests()), arrays.digests()

    def name(row: int) -> str:
        place = places.get(digests[row])
        return to_hex(digests[row]) if place is None else str(index[place].path)

    rows = np.flatnonzero(arrays.written()).tolist()
    return len(rows), [Damage(row, name(row), why) for row, why in _unreadable(arrays, rows)]


def _unreadable(arrays: FeatureArrays, rows: list[int]) -> Iterator[tuple[int, str]]:
    began = logged = time.monotonic()
    for done, row in enumerate(rows):
        for view, name in enumerate(arrays.views):
            try:
                arrays.read(row, view)
            except DamagedError as error:
                yield row, f"{name} of {error}"
                break
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            rate = done / (logged - began)
            log.info("read %d/%d  %.1f img/s", done, len(rows), rate)
