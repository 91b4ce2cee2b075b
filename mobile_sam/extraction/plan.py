"""Before and after the extraction: rows for new images, room on the disk, and completeness."""

import logging
import shutil
from pathlib import Path

import numpy as np

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.digest_lookup import Digests, as_digests, unique_digests
from mobile_sam.data.index.table import Index, check_shapes, teacher_images
from mobile_sam.features.arrays import (
    FeatureArrays,
    IdentityMismatchError,
    create_arrays,
    open_arrays,
)
from mobile_sam.features.identity import Identity, bytes_per_image, identity
from mobile_sam.features.locks import exclusive_lock, is_read_only, shared_lock, write_lock
from mobile_sam.features.schema import FeatureError
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import path_exists, unfinished_path, write_json

log = logging.getLogger(__name__)

_SMALLER_OPTIONS = "feature_dtype 'int8', teacher 'online'"


def plan_extraction(config: RunConfig) -> int:
    """Give each image to learn from a row in the store; returns the number of images to compute.

    Rows of images that are already there stay. A store in the derived place that belongs to a
    teacher that has since been retrained, or to an older format, is deleted; one at a path given
    by the user is refused. Raises FeatureError when the disk has no room for what is missing.
    """
    paths = RunPaths(config)
    check_shapes(paths.index, config.img_size)
    path, expected = paths.features, identity(config)
    wanted = image_digests(paths.index)
    if is_read_only(path):
        arrays, missing = _open_complete(path, expected, wanted), 0
    else:
        with write_lock(path):
            restore_backup(path)
            discard_stale(path, expected, given=config.train_img_dir_teacher_features is not None)
            arrays, missing = add_rows(path, expected, wanted)
            register_index(arrays, paths.index)
    needed = missing * bytes_per_image(expected)
    plan = {"rows": len(arrays.digests()), "missing": missing, "bytes_needed": needed}
    write_json(paths.features_plan, plan)
    return missing


def add_rows(
    path: Path, expected: Identity, wanted: Digests, instead: str = _SMALLER_OPTIONS
) -> tuple[FeatureArrays, int]:
    """Give each image a row in the store at `path`, and say how many of them have no features.

    wanted: digests of images; instead: what takes less room, for the message.
    Raises FeatureError when the disk has no room for what is missing.
    """
    there = stored_digests(open_arrays(path, expected)) if path_exists(path) else as_digests(b"")
    missing = int(np.count_nonzero(~np.isin(wanted, there)))
    needed = missing * bytes_per_image(expected)
    check_disk_space(path, missing, needed, instead)
    arrays = (
        open_arrays(path, expected, "r+") if path_exists(path) else create_arrays(path, expected)
    )
    new = wanted[~np.isin(wanted, arrays.digests())]
    if len(new):
        arrays.append(new)
    log.info(
        "%s: %d images, %d to compute, %s on disk", path, len(wanted), missing, format_bytes(needed)
    )
    return arrays, missing


def _open_complete(path: Path, expected: Identity, wanted: Digests) -> FeatureArrays:
    """A store that cannot be written to. Raises FeatureError unless it has all wanted images."""
    with shared_lock(path):
        arrays = open_arrays(path, expected)
        missing = int(np.count_nonzero(~np.isin(wanted, stored_digests(arrays))))
    if missing:
        raise FeatureError(
            f"{path}: {missing} of {len(wanted)} images have no features, and this user cannot "
            "write into the directory of the store; let its owner extract them, or set "
            "train_img_dir_teacher_features to another path"
        )
    return arrays


def image_digests(index: Path, split: str | None = None) -> Digests:
    """Digests of the images of a split of an index, each once.

    split: None for what teachers look at, training images with masks and images without.
    """
    images = teacher_images(index) if split is None else Index(index, split)
    return unique_digests(images.digests())


def stored_digests(arrays: FeatureArrays) -> Digests:
    """Digests of the images that have features."""
    return arrays.digests()[arrays.written()]


def register_index(arrays: FeatureArrays, index: Path) -> None:
    """Remember which indexes the store is for, so that pruning keeps what others need."""
    known = arrays.group.attrs.get("used_by", [])
    used_by = sorted({*known, str(index.resolve())})
    if used_by != known:
        arrays.group.attrs["used_by"] = used_by


def restore_backup(path: Path) -> None:
    """Put a store back that a killed `prune` had set aside."""
    aside = backup_path(path)
    if path_exists(aside) and not path_exists(path):
        aside.rename(path)


def backup_path(path: Path) -> Path:
    """Return the path where pruning keeps the old store until the new one is in place."""
    return path.with_name(f".{path.name}.before-prune")


def discard_stale(path: Path, expected: Identity, given: bool = False) -> None:
    """Delete a store of another teacher, or of an older format, at a path that was not given.

    Raises FeatureError for any other store that is not of `expected`: of a newer version, damaged,
    or at a given path; OSError for one that cannot be read now.
    """
    if not path_exists(path):
        return
    try:
        open_arrays(path, expected)
    except IdentityMismatchError as error:
        if given:
            raise
        log.info("rebuilding the feature store: %s", error)
        with exclusive_lock(path):
            # By one step, so that no half of it can be left in its place.
            stale = path.rename(unfinished_path(path))
            shutil.rmtree(stale)


def check_disk_space(path: Path, images: int, needed: int, instead: str = _SMALLER_OPTIONS) -> None:
    """Raise FeatureError when the disk has fewer than `needed` bytes for so many images."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FeatureError(
            f"the features of {images} images need {format_bytes(needed)} in {path.parent}, "
            f"{format_bytes(free)} are free; make room, or choose {instead} or another output_dir"
        )


def format_bytes(count: float) -> str:
    """Bytes for people: `24.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def finish_extraction(config: RunConfig) -> None:
    """Write the manifest once every image to learn from has features; else raise FeatureError."""
    paths = RunPaths(config)
    with shared_lock(paths.features):
        there = stored_digests(open_arrays(paths.features, identity(config)))
    wanted = image_digests(paths.index)
    missing = int(np.count_nonzero(~np.isin(wanted, there)))
    if missing:
        raise FeatureError(
            f"{paths.features}: {missing} of {len(wanted)} images have no features; "
            "run `extract` again"
        )
    write_json(paths.features_manifest, {"images": len(wanted), **identity(config)})
