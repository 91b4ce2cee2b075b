"""Grids of points and crops of an image, for automatic masks.

Kirillov et al., arXiv:2304.02643, appendix B.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


class Crop(NamedTuple):
    """Part of an image: xyxy in pixels, x1 and y1 exclusive. Layer 0 is the whole image."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        """Area in pixels."""
        return math.prod(self.size)


def point_grid(side: int) -> Points:
    """Return points (side * side, 2), xy in the unit square: centres of equal cells, row by row."""
    centres = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def point_grids(
    side: int, crop_layers: int, downscale: int, option: str = "points_per_side"
) -> list[Points]:
    """Return the grids of the image and of each layer of crops.

    Layer i has side / downscale^i points a side.
    option: name of `side` in errors.
    Raises ValueError when a layer would be left without a point.
    """
    sides = [int(side / downscale**layer) for layer in range(crop_layers + 1)]
    if min(sides) < 1:
        raise ValueError(
            f"{option}: {side} points a side, {downscale} times fewer in each of "
            f"{crop_layers} layers of crops, leave none in the last layer; give more points"
        )
    return [point_grid(count) for count in sides]


def generate_crops(image_size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """Return the whole image, then its crops: 4 in the first layer, 16 in the second, and so on.

    image_size: (H, W) in pixels.
    overlap_ratio: overlap of crops of the first layer, as a share of the image's shorter side; it
    halves with each further layer.
    Raises ValueError when the image has too few pixels for that many crops.
    """
    height, width = image_size
    crops = [Crop(0, 0, width, height, 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(image_size) * (2 / count))
        columns, rows = (_intervals(side, count, overlap) for side in (width, height))
        crops += [Crop(x0, y0, x1, y1, layer) for (x0, x1), (y0, y1) in product(columns, rows)]
    if any(crop.x0 >= crop.x1 or crop.y0 >= crop.y1 for crop in crops):
        raise ValueError(
            f"crop_n_layers: {layers} layers cut an image of {width} x {height} pixels into empty "
            f"crops; give fewer layers"
        )
    return crops


def _intervals(side: int, count: int, overlap: int) -> list[tuple[int, int]]:
    length = math.ceil((overlap * (count - 1) + side) / count)
    starts = [(length - overlap) * i for i in range(count)]
    return [(start, min(start + length, side)) for start in starts]
