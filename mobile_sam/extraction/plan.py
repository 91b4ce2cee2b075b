"""Before and after the extraction: rows for new images, room on the disk, and completeness."""

import logging
import shutil
from pathlib import Path

import numpy as np

from mobile_sam.config import RunConfig
from mobile_sam.data.digests import Digests, as_digests, each_once
from mobile_sam.data.index import Index
from mobile_sam.data.joined import teacher_images
from mobile_sam.features.arrays import FeatureArrays, create_arrays, open_arrays
from mobile_sam.features.form import NewerError
from mobile_sam.features.identity import Identity, bytes_per_image, identity
from mobile_sam.features.locks import alone, changing
from mobile_sam.features.parts import FeatureError
from mobile_sam.files import write_json
from mobile_sam.layout import RunPaths

log = logging.getLogger(__name__)

_LESS_ROOM = "feature_dtype 'int8', teacher 'online'"


def plan_extraction(config: RunConfig) -> int:
    """Give each image to learn from a row in the store; returns the number of images to compute.

    Rows of images that are already there stay. A store in the derived place that belongs to a
    teacher that has since been retrained, or to an older format, is deleted; one at a path given
    by the user is refused. Raises FeatureError when the disk has no room for what is missing.
    """
    paths = RunPaths(config)
    path, expected = paths.features, identity(config)
    wanted = wanted_digests(paths.index)
    with changing(path):
        restore(path)
        discard_stale(path, expected, given=config.train_img_dir_teacher_features is not None)
        arrays, missing = add_rows(path, expected, wanted)
        register(arrays, paths.index)
    needed = missing * bytes_per_image(expected)
    plan = {"rows": len(arrays.digests()), "missing": missing, "bytes_needed": needed}
    write_json(paths.features_plan, plan)
    return missing


def add_rows(
    path: Path, expected: Identity, wanted: Digests, instead: str = _LESS_ROOM
) -> tuple[FeatureArrays, int]:
    """Give each image a row in the store at `path`, and say how many of them have no features.

    wanted: digests of images; instead: what takes less room, for the message.
    Raises FeatureError when the disk has no room for what is missing.
    """
    there = written_digests(open_arrays(path, expected)) if path.exists() else as_digests(b"")
    missing = int(np.count_nonzero(~np.isin(wanted, there)))
    needed = missing * bytes_per_image(expected)
    check_room(path, missing, needed, instead)
    arrays = open_arrays(path, expected, "r+") if path.exists() else create_arrays(path, expected)
    new = wanted[~np.isin(wanted, arrays.digests())]
    if len(new):
        arrays.append(new)
    log.info(
        "%s: %d images, %d to compute, %s on disk", path, len(wanted), missing, in_units(needed)
    )
    return arrays, missing


def wanted_digests(index: Path, split: str | None = None, most: int | None = None) -> Digests:
    """Digests of the images of a split of an index, or of the first `most`, each once.

    split: None for what teachers look at, training images with masks and images without.
    """
    images = teacher_images(index) if split is None else Index(index, split)
    return each_once(images.digests()[:most])


def written_digests(arrays: FeatureArrays) -> Digests:
    """Digests of the images that have features."""
    return arrays.digests()[arrays.written()]


def register(arrays: FeatureArrays, index: Path) -> None:
    """Remember which indexes the store is for, so that pruning keeps what others need."""
    known = arrays.group.attrs.get("used_by", [])
    used_by = sorted({*known, str(index.resolve())})
    if used_by != known:
        arrays.group.attrs["used_by"] = used_by


def restore(path: Path) -> None:
    """Put a store back that a killed `prune` had set aside."""
    aside = set_aside(path)
    if aside.exists() and not path.exists():
        aside.rename(path)


def set_aside(path: Path) -> Path:
    """Where pruning keeps the old store until the new one is in its place."""
    return path.with_name(f".{path.name}.before-prune")


def discard_stale(path: Path, expected: Identity, given: bool = False) -> None:
    """Delete a store of something else.

    Raises FeatureError instead when its path was given, or a newer version has written it.
    """
    if not path.exists():
        return
    try:
        open_arrays(path, expected)
    except FeatureError as error:
        if given or isinstance(error, NewerError):
            raise
        log.info("starting the feature store anew: %s", error)
        with alone(path):
            shutil.rmtree(path)


def check_room(path: Path, images: int, needed: int, instead: str = _LESS_ROOM) -> None:
    """Raise FeatureError when the disk has fewer than `needed` bytes for so many images."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FeatureError(
            f"the features of {images} images need {in_units(needed)} in {path.parent}, "
            f"{in_units(free)} are free; make room, or choose {instead} or another output_dir"
        )


def in_units(count: float) -> str:
    """Bytes for people: `24.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def finish_extraction(config: RunConfig) -> None:
    """Write the manifest once every image to learn from has features; else raise FeatureError."""
    paths = RunPaths(config)
    there = written_digests(open_arrays(paths.features, identity(config)))
    wanted = wanted_digests(paths.index)
    missing = int(np.count_nonzero(~np.isin(wanted, there)))
    if missing:
        raise FeatureError(
            f"{paths.features}: {missing} of {len(wanted)} images have no features; "
            "run `extract` again"
        )
    write_json(paths.features_manifest, {"images": len(wanted), **identity(config)})
