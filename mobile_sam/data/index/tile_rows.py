"""Rows of the index for a large image: those of its tiles."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mobile_sam.config.sections import ImageOptions, Tile
from mobile_sam.data.index.table import CROWDS, IGNORED
from mobile_sam.data.masks import Mask, Size, bounding_box, decode_crop, encode
from mobile_sam.data.tiles import (
    Grid,
    Window,
    centre_distance,
    mask_in_window,
    step_for,
    tile_id,
)
from mobile_sam.data.windows import DecodedImages, pixel_digest, read_window
from mobile_sam.metrics.mask_crop import Box, MaskCrop, common_box

Columns = dict[str, list[Any]]
ImageColumns = dict[str, Any]  # shared by the rows of an image


class Tiling(NamedTuple):
    """Division of large images into tiles.

    once: whether an object is only in the tile that shows most of it, as in validation. empty:
    whether tiles without objects are used, as for images without masks.
    """

    tile: Tile
    cache: DecodedImages
    once: bool
    empty: bool

    def is_large(self, size: Size) -> bool:
        """Return whether an image (H, W) is larger than a tile."""
        return max(size) > self.tile.size


def rows_of_tiles(
    image: ImageColumns, segments: Columns, options: ImageOptions, tiling: Tiling
) -> Iterator[tuple[ImageColumns, Columns]]:
    """Yield the rows of each tile that is used, and of the segments that are in none.

    image, segments: columns of the whole image. All pixels are read, so that a damaged file is
    found now. Raises RecordError for it.
    """
    size = image["height"], image["width"]
    used = [n for n, reason in enumerate(segments["left_out"]) if reason is None]
    ignored = [n for n, reason in enumerate(segments["left_out"]) if reason in {CROWDS, IGNORED}]
    every = Grid.of(size, tiling.tile).windows()
    placed = _place(segments, used, size, tiling)
    placed |= {window: [] for window in every if tiling.empty}
    for window in dict.fromkeys([*every, *placed]):
        pixels = read_window(Path(image["image_path"]), options, window, tiling.cache)
        if window in placed:
            tile = image | {
                "image_id": tile_id(image["image_id"], window),
                "image_digest": pixel_digest(pixels),
                "height": window.size[0],
                "width": window.size[1],
            }
            inside = [*placed[window], *(n for n in ignored if _overlap(segments, n, window))]
            columns = _cut(segments, inside, size, window)
            if None in columns["left_out"] or tiling.empty:
                yield tile, columns if inside else {"left_out": [None]}
    others = [n for n in range(len(segments["left_out"])) if n not in {*used, *ignored}]
    if others:
        yield image, {name: [values[n] for n in others] for name, values in segments.items()}


def _place(
    segments: Columns, used: Sequence[int], size: Size, tiling: Tiling
) -> dict[Window, list[int]]:
    """Return the segments of each tile that has any.

    A segment is in each tile that shows `min_visible` of it, or else in the one that shows most of
    it. If it is larger than a tile, tiles are larger by a power of two, and one shows all of it.
    """
    grids: dict[int, Grid] = {}
    placed: dict[Window, list[int]] = {}
    for number in used:
        crop = _crop(segments, number, size)
        step = step_for(crop.box, tiling.tile)
        grid = grids.setdefault(step, Grid.of(size, tiling.tile, step))
        while step > 1 and not grid.contains(crop.box):
            step *= 2
            grid = grids.setdefault(step, Grid.of(size, tiling.tile, step))
        shares = {
            window: int(np.count_nonzero(_inside(crop, window))) / crop.area
            for window in grid.touching(crop.box)
        }
        most = max(
            shares, key=lambda window: (shares[window], -centre_distance(window.box, crop.box))
        )
        enough = [w for w, share in shares.items() if share >= tiling.tile.min_visible]
        for window in [most] if tiling.once or not enough else enough:
            placed.setdefault(window, []).append(number)
    return placed


def _cut(segments: Columns, numbers: Sequence[int], size: Size, window: Window) -> Columns:
    """Return the columns of segments in a tile; those without a pixel there are dropped."""
    columns: Columns = {name: [] for name in segments}
    for number in numbers:
        mask = mask_in_window(_crop(segments, number, size), window)
        if not mask.any():
            continue
        box = dict(zip(("x0", "y0", "x1", "y1"), bounding_box(mask), strict=True))
        own = {"rle": encode(mask), "area": int(mask.sum()), **box}
        for name, values in columns.items():
            values.append(own.get(name, segments[name][number]))
    return columns


def _inside(crop: MaskCrop, window: Window) -> Mask:
    """Return the pixels of a segment that lie in a tile, at the resolution of the image."""
    return crop.within(common_box(crop.box, window.box))


def _crop(segments: Columns, number: int, size: Size) -> MaskCrop:
    return decode_crop(segments["rle"][number], size, _box(segments, number))


def _box(segments: Columns, number: int) -> Box:
    x0, y0, x1, y1 = (segments[name][number] for name in ("x0", "y0", "x1", "y1"))
    return x0, y0, x1, y1


def _overlap(segments: Columns, number: int, window: Window) -> bool:
    x0, y0, x1, y1 = _box(segments, number)
    left, top, right, bottom = window.box
    return x0 < right and x1 > left and y0 < bottom and y1 > top
