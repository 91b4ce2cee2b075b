"""Shards of a store: which rows they lack, and writing them beside those that they have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.encoding import DamagedError, FeatureError, Stored
from mobile_sam.features.locks import changing


@dataclass(frozen=True)
class Shard:
    """Rows to compute of one shard, which begins at row `start`."""

    start: int
    rows: list[int]


def missing_shards(arrays: FeatureArrays, wanted: set[bytes]) -> list[Shard]:
    """The shards with rows of wanted images that have no features."""
    digests = arrays.digests()
    by_start: dict[int, list[int]] = {}
    for row in np.flatnonzero(~arrays.written()).tolist():
        if digests[row].tobytes() in wanted:
            by_start.setdefault(row - row % arrays.shard, []).append(row)
    return [Shard(start, rows) for start, rows in by_start.items()]


def write_shard(arrays: FeatureArrays, shard: Shard, computed: Stored) -> None:
    """Write rows of a shard beside those that it already has.

    computed: the arrays of `shard.rows`, in their order, by level and suffix.
    """
    with changing(arrays.path):
        # Other projects append and write too; only now is it known what the shard has.
        now = open_arrays(arrays.path, arrays.content, "r+")
        written = now.written()[shard.start : shard.start + now.shard]
        mine = np.array(shard.rows) - shard.start
        block: Stored = computed
        if len(mine) < len(written):
            block = now.blank(len(written))
            for i in set(np.flatnonzero(written)) - set(mine):
                put(block, int(i), _kept(now, shard.start + int(i)))
            put(block, mine, computed)
        written[mine] = True
        now.write(shard.start, block, written)


def put(block: Stored, rows: int | NDArray[Any], values: Stored) -> None:
    """Set rows of a block, counted from its first, to `values`."""
    for level, parts in values.items():
        for suffix, array in parts.items():
            block[level][suffix][rows] = array


def _kept(arrays: FeatureArrays, row: int) -> Stored:
    try:
        views = [arrays.read(row, view) for view in range(len(arrays.views))]
    except DamagedError as error:
        raise FeatureError(
            f"{arrays.path}: row {row}, which shares a shard with new images, is damaged "
            f"({error}); run `python -m mobile_sam features --repair`"
        ) from error
    return {
        level: {suffix: np.stack([v[level][suffix] for v in views]) for suffix in parts}
        for level, parts in views[0].items()
    }
