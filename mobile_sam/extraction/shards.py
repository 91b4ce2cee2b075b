"""Shards of a store: which rows they lack, and writing them beside those that they have."""

from dataclasses import dataclass

import numpy as np

from mobile_sam.data.index.digest_lookup import Digests
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.locks import write_lock
from mobile_sam.features.schema import DamagedError, FeatureError, StoredFeatures


@dataclass(frozen=True)
class Shard:
    """Rows to compute of one shard, which begins at row `start`."""

    start: int
    rows: list[int]


def missing_shards(arrays: FeatureArrays, wanted: Digests, part: int, parts: int) -> list[Shard]:
    """Return the incomplete shards among every `parts`-th shard, starting at `part`.

    wanted: digests of the images that need features.
    """
    rows = np.flatnonzero(~arrays.written())
    rows = rows[rows // arrays.shard % parts == part]
    by_start: dict[int, list[int]] = {}
    for row in rows[np.isin(arrays.digests()[rows], wanted)].tolist():
        by_start.setdefault(row - row % arrays.shard, []).append(row)
    return [Shard(start, rows) for start, rows in by_start.items()]


def record_precision(arrays: FeatureArrays, precision: str) -> None:
    """Record in a store the precision that its features are computed in.

    Raises FeatureError for a store whose features another precision has computed. One that holds
    features without a record, of an earlier version of this package, stays without.
    """
    with write_lock(arrays.path):
        now = open_arrays(arrays.path, arrays.content, "r+")
        if now.precision is None and not now.written().any():
            now.record_precision(precision)
        elif now.precision not in {None, precision}:
            raise FeatureError(
                f"{arrays.path}: its features are computed in {now.precision}, this machine "
                f"computes in {precision}; run `extract` on a machine like the first, or delete "
                "the store"
            )


def write_shard(arrays: FeatureArrays, shard: Shard, block: StoredFeatures) -> None:
    """Write rows of a shard beside those that it already has.

    block: the whole shard, with `shard.rows` in their places; the others are filled in.
    """
    with write_lock(arrays.path):
        # Other projects append and write too; only now is it known what the shard has.
        now = open_arrays(arrays.path, arrays.content, "r+")
        written = now.written()[shard.start : shard.start + now.shard]
        mine = [row - shard.start for row in shard.rows]
        for i in set(np.flatnonzero(written).tolist()).difference(mine):
            set_row(block, i, _read_existing_row(now, shard.start + i))
        written[mine] = True
        now.write(shard.start, block, written)


def set_row(block: StoredFeatures, i: int, image: StoredFeatures) -> None:
    """Set the `i`-th row of a shard to what is stored of an image."""
    for level, parts in image.items():
        for suffix, array in parts.items():
            block[level][suffix][i] = array


def read_row(arrays: FeatureArrays, row: int) -> StoredFeatures:
    """Return the stored features of all views of an image. Raises DamagedError."""
    views = [arrays.read(row, view) for view in range(len(arrays.views))]
    return {
        level: {suffix: np.stack([view[level][suffix] for view in views]) for suffix in parts}
        for level, parts in views[0].items()
    }


def _read_existing_row(arrays: FeatureArrays, row: int) -> StoredFeatures:
    try:
        return read_row(arrays, row)
    except DamagedError as error:
        raise FeatureError(
            f"{arrays.path}: row {row}, which shares a shard with new images, is damaged "
            f"({error}); run `python -m mobile_sam features --repair`"
        ) from error
