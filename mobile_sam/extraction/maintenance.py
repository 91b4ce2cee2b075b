"""Maintenance of a feature store: describe, verify, repair and prune it."""

import logging
import shutil
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
from mobile_sam.system.progress import ProgressLog

log = logging.getLogger(__name__)

_MAX_LISTED = 50


@dataclass(frozen=True)
class Damage:
    """A row that cannot be read. image: path of its image, or digest if the index lacks it."""

    row: int
    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.image} (row {self.row}, {self.reason})"


def store_info(config: RunConfig) -> str:
    """Describe the store of a run and its content, in lines for a terminal."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    indexed = image_digests(paths.index)
    stored = int(np.count_nonzero(np.isin(indexed, stored_digests(arrays))))
    shapes = level_shapes(arrays.content)
    others = int(np.count_nonzero(~np.isin(arrays.digests(), indexed)))
    lines = {
        "store": str(paths.features),
        "teacher": f"{config.teacher_checkpoint} ({config.teacher_model_type}), "
        f"sha256 {arrays.content['teacher_sha256']}",
        "levels": ", ".join(f"{k} {'x'.join(map(str, shape[1:]))}" for k, shape in shapes.items()),
        "image size": f"{config.img_size} px",
        "dtype": arrays.dtype,
        "precision": arrays.precision or "not recorded",
        "views": ", ".join(arrays.views),
        "images": f"{stored} of the {len(indexed)} in the index, {len(indexed) - stored} missing",
        "others": f"{others} images of other indexes or of none",
        "on disk": f"{format_bytes(size_on_disk(paths.features))}, "
        f"{format_bytes(bytes_per_image(arrays.content))} an image",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in lines.items())


def verify_store(config: RunConfig) -> str:
    """Read every chunk. Raises FeatureError that lists the images with damaged features."""
    path, count, damaged = RunPaths(config).features, *_find_damage(config)
    if damaged:
        lines = [str(damage) for damage in damaged[:_MAX_LISTED]]
        if len(damaged) > _MAX_LISTED:
            lines.append(f"... and {len(damaged) - _MAX_LISTED} more")
        raise FeatureError(
            "\n  ".join([f"{path}: {len(damaged)} of {count} images are damaged:", *lines])
            + "\n`python -m mobile_sam features --repair` computes them again"
        )
    return f"{path}: all {count} images can be read"


def repair_store(config: RunConfig) -> str:
    """Compute the features of damaged and missing images again; keep the others."""
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
    """Return the bytes of all files of a store."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _find_damage(config: RunConfig) -> tuple[int, list[Damage]]:
    """Return the number of images with features, and the images whose features cannot be read."""
    paths = RunPaths(config)
    arrays = open_arrays(paths.features, identity(config))
    index = teacher_images(paths.index)
    positions, digests = DigestLookup(index.digests()), arrays.digests()

    def name(row: int) -> str:
        position = positions.get(digests[row])
        return to_hex(digests[row]) if position is None else str(index[position].path)

    rows = np.flatnonzero(arrays.written()).tolist()
    unreadable = _unreadable_rows(arrays, rows)
    return len(rows), [Damage(row, name(row), reason) for row, reason in unreadable]


def _unreadable_rows(arrays: FeatureArrays, rows: list[int]) -> Iterator[tuple[int, str]]:
    """Read all views of the rows; yield each row that cannot be read, and the reason."""
    progress = ProgressLog("read features", len(rows))
    for row in rows:
        for view, name in enumerate(arrays.views):
            try:
                arrays.read(row, view)
            except DamagedError as error:
                yield row, f"{name} of {error}"
                break
        progress.step()


def prune_store(config: RunConfig, forget: Sequence[Path] = ()) -> str:
    """Drop the rows of images that no index of the store contains; return what was freed.

    forget: indexes of deleted projects, which no longer count.
    The other rows are verified and copied, and the copy replaces the store: if this is killed, at
    least one of the two is whole. Raises FeatureError while other processes use the store, and for
    an index that cannot be read.
    """
    paths = RunPaths(config)
    path = paths.features
    with write_lock(path), exclusive_lock(path):
        restore_backup(path)
        arrays = open_arrays(path, identity(config))
        shutil.rmtree(backup_path(path), ignore_errors=True)
        others = _other_indexes(paths, arrays, forget)
        indexed = [
            image_digests(paths.index),
            *(_digests_of_index(other, path) for other in others),
        ]
        digests = arrays.digests()
        rows = np.flatnonzero(np.isin(digests, np.concatenate(indexed))).tolist()
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
    """Return the indexes that use the store, without that of the run and those to forget."""
    excluded = {str(index.resolve()) for index in (paths.index, *forget)}
    return [Path(other) for other in arrays.used_by if other not in excluded]


def _digests_of_index(index: Path, store: Path) -> Digests:
    """Return the digests of the images of another index that uses the store."""
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
    """Create a store at `target` with the given rows, in this order; damaged rows stay empty."""
    if target.exists():  # left by a pruning that was killed
        shutil.rmtree(target)
    copy = create_arrays(target, arrays.content, arrays.shard)
    if arrays.precision is not None:
        copy.record_precision(arrays.precision)
    digests, written = arrays.digests(), arrays.written()
    copy.append(digests[rows])
    for start in range(0, len(rows), copy.shard):
        shard_rows = rows[start : start + copy.shard]
        block, copied = copy.blank(), np.zeros(len(shard_rows), dtype=bool)
        for i, row in enumerate(shard_rows):
            if not written[row]:
                continue
            try:
                set_row(block, i, read_row(arrays, row))
            except DamagedError as error:
                log.warning("row %d is damaged (%s); run `extract` to compute it again", row, error)
                continue
            copied[i] = True
        copy.write(start, block, copied)
    return copy
