"""Maintenance of a feature store: describe, verify, repair and prune it."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.digest_lookup import DigestLookup, Digests, to_hex
from mobile_sam.data.index.table import teacher_images
from mobile_sam.extraction.compute import compute_missing
from mobile_sam.extraction.plan import (
    backup_path,
    check_disk_space,
    finish_extraction,
    format_bytes,
    image_digests,
    register_index,
    restore_backup,
    stored_digests,
)
from mobile_sam.extraction.shards import read_row, set_row
from mobile_sam.features.arrays import FeatureArrays, create_arrays, open_arrays
from mobile_sam.features.identity import bytes_per_image, identity, level_shapes
from mobile_sam.features.locks import exclusive_lock, write_lock
from mobile_sam.features.schema import DamagedError, FeatureError
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import machine_fault, naming, path_problem

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0
_MAX_LISTED = 50


@dataclass(frozen=True)
class Damage:
    """A row that cannot be read. image: its path, or its digest where the index has none."""

    row: int
    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.image} (row {self.row}, {self.reason})"


def store_info(config: RunConfig) -> str:
    """Describe the store of a run and its content, in lines for a terminal."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    written, wanted = stored_digests(arrays), image_digests(paths.index)
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
        "precision": arrays.precision or "not recorded",
        "views": ", ".join(arrays.views),
        "images": f"{there} of the {len(wanted)} in the index, {len(wanted) - there} missing",
        "others": f"{others} images of other indexes or of none",
        "on disk": f"{format_bytes(size_on_disk(paths.features))}, "
        f"{format_bytes(bytes_per_image(arrays.content))} an image",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())


def verify_store(config: RunConfig) -> str:
    """Read every chunk; raise FeatureError that names each image whose features are damaged."""
    path, count, damaged = RunPaths(config).features, *_find_damage(config)
    if damaged:
        named = [str(damage) for damage in damaged[:_MAX_LISTED]]
        if len(damaged) > _MAX_LISTED:
            named.append(f"... and {len(damaged) - _MAX_LISTED} more")
        raise FeatureError(
            "\n  ".join([f"{path}: {len(damaged)} of {count} images are damaged:", *named])
            + "\n`python -m mobile_sam features --repair` computes them again"
        )
    return f"{path}: all {count} images can be read"


def repair_store(config: RunConfig) -> str:
    """Compute the features of damaged and missing images again; the others stay."""
    paths = RunPaths(config)
    _, damaged = _find_damage(config)
    for damage in damaged:
        log.info("damaged: %s", damage)
    with write_lock(paths.features):
        arrays = open_arrays(paths.features, identity(config), "r+")
        arrays.forget([damage.row for damage in damaged])
    computed = compute_missing(config)
    finish_extraction(config)
    return f"{paths.features}: damaged images: {len(damaged)}, computed again: {computed}"


def size_on_disk(path: Path) -> int:
    """Bytes of all files of a store."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _find_damage(config: RunConfig) -> tuple[int, list[Damage]]:
    """Return the number of images with features, and the images whose features cannot be read."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    index = teacher_images(paths.index)
    places, digests = DigestLookup(index.digests()), arrays.digests()

    def name(row: int) -> str:
        place = places.get(digests[row])
        return to_hex(digests[row]) if place is None else str(index[place].path)

    rows = np.flatnonzero(arrays.written()).tolist()
    return len(rows), [Damage(row, name(row), why) for row, why in _unreadable_rows(arrays, rows)]


def _unreadable_rows(arrays: FeatureArrays, rows: list[int]) -> Iterator[tuple[int, str]]:
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


def prune_store(config: RunConfig, forget: Sequence[Path] = ()) -> str:
    """Drop the rows of images that are in no index that the store is for; says what it freed.

    forget: indexes that count no longer, of projects that are gone.
    The kept rows are copied, each verified, and the copy takes the place of the store: killed at
    any moment, one of both is whole. Raises FeatureError while others use the store, and for an
    index that cannot be read.
    """
    paths = RunPaths(config)
    path = paths.features
    with write_lock(path), exclusive_lock(path):
        restore_backup(path)
        arrays = open_arrays(path, identity(config))
        shutil.rmtree(backup_path(path), ignore_errors=True)
        others = _other_indexes(paths, arrays, forget)
        needed = [image_digests(paths.index), *(_digests_of_index(index, path) for index in others)]
        wanted = np.concatenate(needed)
        digests = arrays.digests()
        rows = np.flatnonzero(np.isin(digests, wanted)).tolist()
        dropped = len(digests) - len(rows)
        if not dropped:
            return f"{path}: all {len(digests)} images are in an index; nothing to prune"
        before = size_on_disk(path)
        check_disk_space(path, len(rows), len(rows) * bytes_per_image(arrays.content))
        copy = _copy_rows(arrays, rows, path.with_name(f".{path.name}.pruned"))
        for index in (paths.index, *others):
            register_index(copy, index)
        path.rename(backup_path(path))
        copy.path.rename(path)
        shutil.rmtree(backup_path(path))
        freed = before - size_on_disk(path)
    return f"{path}: {dropped} of {len(digests)} images dropped, {format_bytes(freed)} freed"


def _other_indexes(paths: RunPaths, arrays: FeatureArrays, forget: Sequence[Path]) -> list[Path]:
    """Indexes that the store is for, beside the run's own."""
    without = {str(index.resolve()) for index in (paths.index, *forget)}
    return [Path(other) for other in arrays.used_by if other not in without]


def _digests_of_index(index: Path, store: Path) -> Digests:
    """Digests of the images of another index that a store is for."""
    try:
        with naming(index):
            return image_digests(index)
    except (OSError, UserError) as error:
        raise FeatureError(
            f"{store}: nothing was dropped, because an index that the store is for cannot be read: "
            f"{machine_fault(error) or path_problem(error) or error}. If its project is gone for "
            f"good, add --forget {index}"
        ) from error


def _copy_rows(arrays: FeatureArrays, rows: list[int], target: Path) -> FeatureArrays:
    """A store at `target` with some of the rows, in their order."""
    if target.exists():  # of a pruning that was killed
        shutil.rmtree(target)
    copy = create_arrays(target, arrays.content, arrays.shard)
    if arrays.precision is not None:
        copy.record_precision(arrays.precision)
    digests, written = arrays.digests(), arrays.written()
    copy.append(digests[rows])
    for start in range(0, len(rows), copy.shard):
        of_shard = rows[start : start + copy.shard]
        block, kept = copy.blank(), np.zeros(len(of_shard), dtype=bool)
        for i, row in enumerate(of_shard):
            if not written[row]:
                continue
            try:
                set_row(block, i, read_row(arrays, row))
            except DamagedError as error:
                log.warning("row %d was damaged (%s); run `extract` to compute it", row, error)
                continue
            kept[i] = True
        copy.write(start, block, kept)
    return copy
