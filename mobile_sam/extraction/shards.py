"""Shards of a store: finds their missing rows, and writes these without losing the others."""

from dataclasses import dataclass

import numpy as np

from mobile_sam.data.index.digest_lookup import Digests
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.locks import write_lock
from mobile_sam.features.schema import DamagedError, FeatureError, StoredFeatures


@dataclass(frozen=True)
class Shard:
    """Rows to compute of the shard that begins at row `start`."""

    start: int
    rows: list[int]


def missing_shards(arrays: FeatureArrays, needed: Digests, part: int, parts: int) -> list[Shard]:
    """Return the incomplete shards among every `parts`-th shard, starting at `part`.

    needed: digests of the images that need features.
    """
    rows = np.flatnonzero(~arrays.written())
    rows = rows[rows // arrays.shard % parts == part]
    by_start: dict[int, list[int]] = {}
    for row in rows[np.isin(arrays.digests()[rows], needed)].tolist():
        by_start.setdefault(row - row % arrays.shard, []).append(row)
    return [Shard(start, rows) for start, rows in by_start.items()]


def record_precision(arrays: FeatureArrays, precision: str) -> None:
    """Record in a store the precision that its features are computed in.

    Raises FeatureError if the features of the store were computed in another precision. A store of
    an earlier version of this package, which has features but no record, stays without one.
    """
    with write_lock(arrays.path):
        current = open_arrays(arrays.path, arrays.content, "r+")
        if current.precision is None and not current.written().any():
            current.record_precision(precision)
        elif current.precision not in {None, precision}:
            raise FeatureError(
                f"{arrays.path}: its features are computed in {current.precision}, but this "
                f"machine computes in {precision}; run `extract` on a machine that computes in "
                f"{current.precision}, or delete the store"
            )


def write_shard(arrays: FeatureArrays, shard: Shard, block: StoredFeatures) -> None:
    """Write new rows of a shard, and keep the rows that it already has.

    block: values of the whole shard, set in `shard.rows`; existing rows are copied into it.
    """
    with write_lock(arrays.path):
        # Read under the lock, because other projects append and write too.
        current = open_arrays(arrays.path, arrays.content, "r+")
        written = current.written()[shard.start : shard.start + current.shard]
        new = [row - shard.start for row in shard.rows]
        for i in set(np.flatnonzero(written).tolist()).difference(new):
            set_row(block, i, _read_existing_row(current, shard.start + i))
        written[new] = True
        current.write(shard.start, block, written)


def set_row(block: StoredFeatures, i: int, features: StoredFeatures) -> None:
    """Set the `i`-th row of a shard to the features of an image."""
    for level, parts in features.items():
        for suffix, array in parts.items():
            block[level][suffix][i] = array


def read_row(arrays: FeatureArrays, row: int) -> StoredFeatures:
    """Read the stored features of all views of an image. Raises DamagedError."""
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
