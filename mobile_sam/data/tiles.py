"""Tiles of large images: their ids, and where they lie."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Tile
from mobile_sam.data.masks import Mask, Size
from mobile_sam.metrics.mask_crop import Box, MaskCrop, common_box

_TILE_ID = re.compile(r"(.+)@(\d+),(\d+)(?:/(\d+))?", re.DOTALL)


class Window(NamedTuple):
    """Part of an image, every `step` pixels of which are one pixel of the window.

    x, y: its first column and row in pixels of the image. size: its own (H, W).
    """

    x: int
    y: int
    size: Size
    step: int = 1

    @property
    def box(self) -> Box:
        """Return its xyxy in pixels of the image; it may reach beyond the image by a step."""
        height, width = self.size
        return self.x, self.y, self.x + width * self.step, self.y + height * self.step

    def shows(self, size: Size) -> bool:
        """Return whether it shows all of an image (H, W)."""
        return common_box(self.box, (0, 0, size[1], size[0])) == (0, 0, size[1], size[0])

    def inside(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (..., 2), xy in pixels of the image, in pixels of the window."""
        return (coords - (self.x, self.y)) / self.step


def tile_id(image_id: str, window: Window) -> str:
    """Return the id of a tile: `slide_07@2048,1024`, with `/4` at a quarter of the resolution."""
    step = f"/{window.step}" if window.step > 1 else ""
    return f"{image_id}@{window.x},{window.y}{step}"


def parse_tile_id(image_id: str, size: Size) -> Window | None:
    """Return the window of a tile with an id and a size (H, W); None if the id is not of a tile."""
    match = _TILE_ID.fullmatch(image_id)
    return match and Window(int(match[2]), int(match[3]), size, int(match[4] or 1))


def source_image(image_id: str) -> str:
    """Return the id of the image of a tile; other ids are returned as they are."""
    match = _TILE_ID.fullmatch(image_id)
    return match[1] if match else image_id


class Grid(NamedTuple):
    """Tiles of an image (H, W), of which every `step` pixels are one.

    xs, ys: first columns and rows. They are spread evenly, so that the last tile ends with the
    image, and neighbours overlap by `tile.overlap` pixels of a tile or more.
    """

    size: Size
    xs: tuple[int, ...]
    ys: tuple[int, ...]
    side: int
    step: int

    @classmethod
    def of(cls, size: Size, tile: Tile, step: int = 1) -> "Grid":
        """Return the tiles of an image (H, W)."""
        ys, xs = (_starts(-(-length // step), tile, step) for length in size)
        return cls(size, xs, ys, tile.size * step, step)

    def touching(self, box: Box) -> list[Window]:
        """Return the tiles that have pixels of a box, row by row."""
        x0, y0, x1, y1 = box
        xs = [x for x in self.xs if x < x1 and x + self.side > x0]
        ys = [y for y in self.ys if y < y1 and y + self.side > y0]
        height, width = (math.ceil(min(self.side, length) / self.step) for length in self.size)
        return [Window(x, y, (height, width), self.step) for y in ys for x in xs]

    def contains(self, box: Box) -> bool:
        """Return whether a tile shows all of a box."""
        x0, y0, x1, y1 = box
        return any(x <= x0 and x1 <= x + self.side for x in self.xs) and any(
            y <= y0 and y1 <= y + self.side for y in self.ys
        )

    def windows(self) -> list[Window]:
        """Return all tiles, row by row."""
        return self.touching((0, 0, self.size[1], self.size[0]))


def _starts(length: int, tile: Tile, step: int) -> tuple[int, ...]:
    """Return where tiles begin, in pixels of the image. length: of the image, in their pixels."""
    last = max(length - tile.size, 0)
    count = math.ceil(last / (tile.size - tile.overlap)) + 1
    return tuple(step * round(last * number / max(count - 1, 1)) for number in range(count))


def window_around(extent: Sequence[float], size: Size, tile: Tile, step: int = 1) -> Window:
    """Return a window of an image (H, W) that shows all of an extent, xyxy in pixels.

    Windows overlap by half, so that near extents share one; it is the one whose centre is nearest.
    It is enlarged as `step_for` says, by `step` at least.
    """
    limits = np.array([*size[::-1]])
    first = np.clip(np.floor(extent[:2]), 0, limits - 1).astype(int)
    last = np.clip(np.ceil(extent[2:]), first + 1, limits).astype(int)
    box: Box = (*first.tolist(), *last.tolist())
    halved = tile.model_copy(update={"overlap": tile.size // 2})
    step = max(step, step_for(box, tile))
    while not (grid := Grid.of(size, halved, step)).contains(box):
        step *= 2
    whole = [window for window in grid.touching(box) if common_box(window.box, box) == box]
    return min(whole, key=lambda window: centre_distance(window.box, box))


def centre_distance(first: Box, second: Box) -> float:
    """Return the squared distance of the centres of two boxes, times 4."""
    across, down = (
        first[axis] + first[axis + 2] - second[axis] - second[axis + 2] for axis in (0, 1)
    )
    return across**2 + down**2


def mask_in_image(crop: MaskCrop, window: Window, size: Size) -> MaskCrop:
    """Return a mask of a window as a mask of its image (H, W)."""
    x, y = window.x + crop.x0 * window.step, window.y + crop.y0 * window.step
    pixels = crop.pixels.repeat(window.step, axis=0).repeat(window.step, axis=1)
    return MaskCrop.tight(pixels[: max(size[0] - y, 0), : max(size[1] - x, 0)], x, y, size)


def mask_in_window(crop: MaskCrop, window: Window) -> Mask:
    """Return the mask (H, W) of an object in a window: pixels that it covers by half or more.

    An object that covers no pixel by half has all pixels that it touches.
    """
    if window.step == 1:
        return crop.within(window.box)
    step, (left, top, right, bottom) = window.step, common_box(crop.box, window.box)
    x0, y0 = (left - window.x) // step, (top - window.y) // step
    x1, y1 = -((window.x - right) // step), -((window.y - bottom) // step)
    box = (window.x + x0 * step, window.y + y0 * step, window.x + x1 * step, window.y + y1 * step)
    covered = shrink(crop.within(box).astype(np.uint8) * np.uint8(255), (y1 - y0, x1 - x0))
    mask = np.zeros(window.size, dtype=bool)
    mask[y0:y1, x0:x1] = covered >= 128 if covered.max(initial=0) >= 128 else covered > 0
    return mask


def shrink(pixels: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return pixels (h, w, ...) averaged to a smaller (H, W)."""
    return (
        pixels
        if pixels.shape[:2] == size
        else cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_AREA)
    )


def step_for(box: Box, tile: Tile) -> int:
    """Return the smallest power of two by which a tile must be enlarged to be as large as a box."""
    longest = max(box[2] - box[0], box[3] - box[1])
    return 1 << max(0, math.ceil(math.log2(longest / tile.size)))
