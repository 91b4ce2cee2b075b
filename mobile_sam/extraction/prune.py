"""Pruning: a store without the images that no index has any more."""

import logging
import shutil
from pathlib import Path

import numpy as np

from mobile_sam.config import RunConfig
from mobile_sam.extraction.care import size_on_disk
from mobile_sam.extraction.plan import (
    check_room,
    in_units,
    register,
    restore,
    set_aside,
    wanted_digests,
)
from mobile_sam.extraction.shards import put, read_row
from mobile_sam.features.arrays import FeatureArrays, create_arrays, open_arrays
from mobile_sam.features.identity import bytes_per_image, identity
from mobile_sam.features.locks import alone, changing
from mobile_sam.features.parts import DamagedError
from mobile_sam.layout import RunPaths

log = logging.getLogger(__name__)


def prune(config: RunConfig) -> str:
    """Drop the rows of images that are in no index that the store is for; says what it freed.

    The kept rows are copied, each verified, and the copy takes the place of the store: killed at
    any moment, one of both is whole. Raises FeatureError while others use the store.
    """
    paths = RunPaths(config)
    path = paths.features
    with changing(path), alone(path):
        restore(path)
        shutil.rmtree(set_aside(path), ignore_errors=True)
        arrays = open_arrays(path, identity(config))
        indexes = [paths.index, *(Path(p) for p in arrays.used_by if Path(p).is_file())]
        wanted = np.concatenate([wanted_digests(index) for index in indexes])
        digests = arrays.digests()
        rows = np.flatnonzero(np.isin(digests, wanted)).tolist()
        dropped = len(digests) - len(rows)
        if not dropped:
            return f"{path}: all {len(digests)} images are in an index; nothing to prune"
        before = size_on_disk(path)
        check_room(path, len(rows), len(rows) * bytes_per_image(arrays.content))
        copy = _copied(arrays, rows, path.with_name(f".{path.name}.pruned"))
        for index in indexes:
            register(copy, index)
        path.rename(set_aside(path))
        copy.path.rename(path)
        shutil.rmtree(set_aside(path))
        freed = before - size_on_disk(path)
    return f"{path}: {dropped} of {len(digests)} images dropped, {in_units(freed)} freed"


def _copied(arrays: FeatureArrays, rows: list[int], target: Path) -> FeatureArrays:
    """A store at `target` with some of the rows, in their order."""
    if target.exists():  # of a pruning that was killed
        shutil.rmtree(target)
    copy = create_arrays(target, arrays.content, arrays.shard)
    digests, written = arrays.digests(), arrays.written()
    copy.append(digests[rows])
    for start in range(0, len(rows), copy.shard):
        of_shard = rows[start : start + copy.shard]
        block, kept = copy.blank(), np.zeros(len(of_shard), dtype=bool)
        for i, row in enumerate(of_shard):
            if not written[row]:
                continue
            try:
                put(block, i, read_row(arrays, row))
            except DamagedError as error:
                log.warning("row %d was damaged (%s); run `extract` to compute it", row, error)
                continue
            kept[i] = True
        copy.write(start, block, kept)
    return copy
