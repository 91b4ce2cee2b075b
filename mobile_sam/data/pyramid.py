"""Images that are read in place, block by block, with the smaller copies that they have."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # (H, W) in pixels


@dataclass(frozen=True)
class Pyramid:
    """Image of which parts can be read.

    levels: arrays as stored, (H, W), (H, W, bands) or (bands, H, W): the image, then its copies.
    bands_first: whether bands are the first axis. is_colour: whether three bands are red, green and
    blue. has_alpha: whether the last of two or four bands is transparency.
    nodata: value that marks pixels without data.
    """

    levels: Sequence[Any]
    bands_first: bool = False
    is_colour: bool = True
    has_alpha: bool = True
    nodata: float | None = None

    @property
    def size(self) -> Size:
        """Return (H, W) of the image."""
        return self._size(self.levels[0])

    def read(self, x0: int, y0: int, x1: int, y1: int, step: int) -> tuple[NDArray[Any], int]:
        """Return the pixels (h, w) or (h, w, bands) of a part, and how many of the image are one.

        x0, y0, x1, y1: in pixels of the image; what lies beyond it is left out. step: how many
        pixels of the image, along a side, will be one. The smallest copy that has enough pixels is
        read.
        """
        scale = max(n for n in self._numbers if not any(v % n for v in (x0, y0, x1, y1, step)))
        level = self.levels[self._numbers[scale]]
        rows, columns = (slice(a // scale, b // scale) for a, b in ((y0, y1), (x0, x1)))
        if self.bands_first and level.ndim == 3:
            return np.moveaxis(np.asarray(level[:, rows, columns]), 0, -1), scale
        return np.asarray(level[rows, columns]), scale

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """Numbers of the levels, by how many pixels of the image, along a side, are one."""
        numbers: dict[int, int] = {}
        for number, level in enumerate(self.levels):
            sides = self._size(level)
            scale = max(1, round(self.size[0] / max(sides[0], 1)))
            ends = ((whole // scale, -(-whole // scale)) for whole in self.size)
            if all(side in end for side, end in zip(sides, ends, strict=True)):
                numbers.setdefault(scale, number)
        return numbers

    def _size(self, level: Any) -> Size:
        height, width = level.shape[1:] if self.bands_first and level.ndim == 3 else level.shape[:2]
        return int(height), int(width)
