"""Tiles of large images: their ids, and where they lie."""

import math
import re
from typing import NamedTuple

from mobile_sam.config.sections import Tile
from mobile_sam.data.masks import Size
from mobile_sam.metrics.mask_crop import Box

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


def step_for(box: Box, tile: Tile) -> int:
    """Return the smallest power of two by which a tile must be enlarged to be as large as a box."""
    longest = max(box[2] - box[0], box[3] - box[1])
    return 1 << max(0, math.ceil(math.log2(longest / tile.size)))
