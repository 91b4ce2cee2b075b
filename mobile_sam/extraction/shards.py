"""Shards of a store: which rows they lack, and writing them beside those that they have."""

from dataclasses import dataclass

import numpy as np

from mobile_sam.data.digests import Digests
from mobile_sam.features.arrays import FeatureArrays, open_arrays
from mobile_sam.features.locks import changing
from mobile_sam.features.parts import DamagedError, FeatureError, Stored


@dataclass(frozen=True)
class Shard:
    """Rows to compute of one shard, which begins at row `start`."""

    start: int
    rows: list[int]


def missing_shards(arrays: FeatureArrays, wanted: Digests, part: int, parts: int) -> list[Shard]:
    """Of every `parts`-th shard, from `part` on, those that lack features of wanted images.

    wanted: images.
    """
    rows = np.flatnonzero(~arrays.written())
    rows = rows[rows // arrays.shard % parts == part]
    by_start: dict[int, list[int]] = {}
    for row in rows[np.isin(arrays.digests()[rows], wanted)].tolist():
        by_start.setdefault(row - row % arrays.shard, []).append(row)
    return [Shard(start, rows) for start, rows in by_start.items()]


def write_shard(arrays: FeatureArrays, shard: Shard, block: Stored) -> None:
    """Write rows of a shard beside those that it already has.

    block: the whole shard, with `shard.rows` in their places; the others are filled in.
    """
    with changing(arrays.path):
        # Other projects append and write too; only now is it known what the shard has.
        now = open_arrays(arrays.path, arrays.content, "r+")
        written = now.written()[shard.start : shard.start + now.shard]
        mine = [row - shard.start for row in shard.rows]
        for i in set(np.flatnonzero(written).tolist()).difference(mine):
            put(block, i, _kept(now, shard.start + i))
        written[mine] = True
        now.write(shard.start, block, written)


def put(block: Stored, i: int, image: Stored) -> None:
    """Set the `i`-th row of a shard to what is stored of an image."""
    for level, parts in image.items():
        for suffix, array in parts.items():
            block[level][suffix][i] = array


def read_row(arrays: FeatureArrays, row: int) -> Stored:
    """What is stored of all views of an image; raises DamagedError."""
    views = [arrays.read(row, view) for view in range(len(arrays.views))]
    return {
        level: {suffix: np.stack([view[level][suffix] for view in views]) for suffix in parts}
        for level, parts in views[0].items()
    }


def _kept(arrays: FeatureArrays, row: int) -> Stored:
    try:
        return read_row(arrays, row)
    except DamagedError as error:
        raise FeatureError(
            f"{arrays.path}: row {row}, which shares a shard with new images, is damaged "
            f"({error}); run `python -m mobile_sam features --repair`"
        ) from error
