"""Steps before and after the extraction: adds rows, checks disk space and completeness."""

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

_SMALLER_OPTIONS = "feature_dtype 'int8', teacher_features 'online'"


def plan_extraction(config: RunConfig) -> int:
    """Add a row to the store for each new image; return the number of images to compute.

    Existing rows are kept. At the default path, a store of an older format, or of a teacher that
    was retrained since, is deleted. At a path given by the user, it is refused.
    Raises FeatureError if the disk lacks space for the missing features.
    """
    paths = RunPaths(config)
    check_shapes(paths.index, config.img_size)
    path, expected = paths.features, identity(config)
    digests = image_digests(paths.index)
    if is_read_only(path):
        arrays, missing = _open_complete(path, expected, digests), 0
    else:
        with write_lock(path):
            restore_backup(path)
            discard_stale(path, expected, given=config.train_img_dir_teacher_features is not None)
            arrays, missing = add_rows(path, expected, digests)
            register_index(arrays, paths.index)
    needed = missing * bytes_per_image(expected)
    plan = {"rows": len(arrays.digests()), "missing": missing, "bytes_needed": needed}
    write_json(paths.features_plan, plan)
    return missing


def add_rows(
    path: Path, expected: Identity, digests: Digests, alternatives: str = _SMALLER_OPTIONS
) -> tuple[FeatureArrays, int]:
    """Add a row to the store at `path` for each new image; return how many images lack features.

    The store is created if it is missing. digests: digests of all images. alternatives: settings
    that take less space, for the message.
    Raises FeatureError if the disk lacks space for the missing features.
    """
    stored = stored_digests(open_arrays(path, expected)) if path_exists(path) else as_digests(b"")
    missing = int(np.count_nonzero(~np.isin(digests, stored)))
    needed = missing * bytes_per_image(expected)
    check_disk_space(path, missing, needed, alternatives)
    arrays = (
        open_arrays(path, expected, "r+") if path_exists(path) else create_arrays(path, expected)
    )
    new = digests[~np.isin(digests, arrays.digests())]
    if len(new):
        arrays.append(new)
    log.info(
        "%s: %d images, %d to compute, which take %s",
        *(path, len(digests), missing, format_bytes(needed)),
    )
    return arrays, missing


def _open_complete(path: Path, expected: Identity, digests: Digests) -> FeatureArrays:
    """Open a read-only store. Raises FeatureError unless it has the features of all images."""
    with shared_lock(path):
        arrays = open_arrays(path, expected)
        missing = int(np.count_nonzero(~np.isin(digests, stored_digests(arrays))))
    if missing:
        raise FeatureError(
            f"{path}: {missing} of {len(digests)} images have no features, and this user cannot "
            "write into the directory of the store; ask its owner to extract them, or set "
            "train_img_dir_teacher_features to another path"
        )
    return arrays


def image_digests(index: Path, split: str | None = None) -> Digests:
    """Return the digests of the images of a split, each once.

    split: None for the images that teachers see: training images and images without masks.
    """
    images = teacher_images(index) if split is None else Index(index, split)
    return unique_digests(images.digests())


def stored_digests(arrays: FeatureArrays) -> Digests:
    """Return the digests of the images that have features."""
    return arrays.digests()[arrays.written()]


def register_index(arrays: FeatureArrays, index: Path) -> None:
    """Record that an index uses the store, so that pruning keeps the features of its images."""
    recorded = arrays.group.attrs.get("used_by", [])
    used_by = sorted({*recorded, str(index.resolve())})
    if used_by != recorded:
        arrays.group.attrs["used_by"] = used_by


def restore_backup(path: Path) -> None:
    """Move the backup of a killed `prune` back to the path of the store, if that is missing."""
    backup = backup_path(path)
    if path_exists(backup) and not path_exists(path):
        backup.rename(path)


def backup_path(path: Path) -> Path:
    """Return the path where pruning keeps the old store until the new one is in place."""
    return path.with_name(f".{path.name}.before-prune")


def discard_stale(path: Path, expected: Identity, given: bool = False) -> None:
    """Delete a store of another teacher or of an older format.

    given: whether the user gave the path; then the store is refused instead.
    Raises FeatureError for a store that is refused, of a newer version or damaged; OSError for one
    that cannot be read now.
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
            # Renamed first, so that no partly deleted store can remain at the path.
            stale = path.rename(unfinished_path(path))
            shutil.rmtree(stale)


def check_disk_space(
    path: Path, images: int, needed: int, alternatives: str = _SMALLER_OPTIONS
) -> None:
    """Raise FeatureError if the disk has fewer than the `needed` bytes for so many images."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FeatureError(
            f"the features of {images} images need {format_bytes(needed)} in {path.parent}, "
            f"{format_bytes(free)} are free; free some space, or choose {alternatives} or another "
            "output_dir"
        )


def format_bytes(count: float) -> str:
    """Format a number of bytes, such as `24.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def finish_extraction(config: RunConfig) -> None:
    """Write the manifest. Raises FeatureError if an image that teachers see has no features."""
    paths = RunPaths(config)
    with shared_lock(paths.features):
        stored = stored_digests(open_arrays(paths.features, identity(config)))
    digests = image_digests(paths.index)
    missing = int(np.count_nonzero(~np.isin(digests, stored)))
    if missing:
        raise FeatureError(
            f"{paths.features}: {missing} of {len(digests)} images have no features; "
            "run `extract` again"
        )
    write_json(paths.features_manifest, {"images": len(digests), **identity(config)})
