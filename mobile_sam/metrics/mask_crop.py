"""A mask cut out of its image.

Objects are small in large images, so masks are compared where they have pixels.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]  # xyxy in pixels of the image; x1 and y1 are exclusive

_BAND = 0.02  # of the diagonal: width of the band along the outline in boundary IoU


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """A mask in a window of its image that contains all of its pixels.

    pixels: (h, w), C-contiguous. x0, y0: first column and row of the window. size: (H, W) of the
    image. What metrics need of it is computed once.
    """

    pixels: Mask
    x0: int
    y0: int
    size: tuple[int, int]

    @classmethod
    def tight(cls, pixels: Mask, x0: int, y0: int, size: tuple[int, int]) -> "MaskCrop":
        """Crop a window further, to the bounding box of its mask; (0, 0) pixels if it is empty."""
        # Run-length decoders return column-major masks, which OpenCV copies unless transposed.
        columns_first = not pixels.flags.c_contiguous and pixels.flags.f_contiguous
        by_rows = (pixels.T if columns_first else pixels).astype(bool, copy=False)
        x, y, width, height = cv2.boundingRect(by_rows.view(np.uint8)) if pixels.size else [0] * 4
        if columns_first:
            x, y, width, height = y, x, height, width
        inside = pixels[y : y + height, x : x + width]
        return cls(np.ascontiguousarray(inside, dtype=bool), x0 + x, y0 + y, size)

    @property
    def box(self) -> Box:
        """Return the window in the image."""
        height, width = self.pixels.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @cached_property
    def area(self) -> int:
        """Return the number of pixels of the mask."""
        return int(np.count_nonzero(self.pixels))

    def within(self, box: Box) -> Mask:
        """Return the pixels in a box of the image, (h, w) of the box; a view where possible."""
        left, top, right, bottom = common_box(self.box, box)
        part = self.pixels[top - self.y0 : bottom - self.y0, left - self.x0 : right - self.x0]
        x0, y0, x1, y1 = box
        if part.shape == (y1 - y0, x1 - x0):
            return part
        pixels = np.zeros((y1 - y0, x1 - x0), dtype=bool)
        pixels[top - y0 : bottom - y0, left - x0 : right - x0] = part
        return pixels

    @cached_property
    def band(self) -> "MaskCrop":
        """Return the mask's pixels within a distance of a pixel outside it, see `boundary_iou`."""
        width = max(1, round(_BAND * math.hypot(*self.size)))
        side = 2 * width + 1
        if min(self.pixels.shape) < side:
            return self
        # Equal to eroding `width` times with a 3 x 3 square, as the authors do.
        inside = cv2.erode(
            self.pixels.view(np.uint8),
            np.ones((side, side), dtype=np.uint8),
            borderType=cv2.BORDER_CONSTANT,
            borderValue=(0.0,),
        )
        return MaskCrop(self.pixels ^ inside.view(bool), self.x0, self.y0, self.size)

    @cached_property
    def contour(self) -> "MaskCrop":
        """Return the pixels that differ from their neighbour on the right, below, or below right.

        Positions outside the image never differ.
        """
        box = enlarge(self.box, 1, self.size)  # contours also lie next to the mask
        mask = self.within(box)
        differs = np.zeros_like(mask)
        differs[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
        differs[:-1] |= mask[:-1] ^ mask[1:]
        differs[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
        return MaskCrop(differs, box[0], box[1], self.size)


def crop_pair(first: Mask | MaskCrop, second: Mask | MaskCrop) -> tuple[MaskCrop, MaskCrop]:
    """Crop two masks (H, W) to their bounding boxes, unless they are cropped already.

    Raises ValueError if the shapes differ.
    """
    shapes = [mask.size if isinstance(mask, MaskCrop) else mask.shape for mask in (first, second)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(
            f"the masks have shapes {shapes[0]} and {shapes[1]}; give two of one image, (H, W)"
        )
    return crop_mask(first), crop_mask(second)


def crop_mask(mask: Mask | MaskCrop) -> MaskCrop:
    """Crop a mask (H, W) to its bounding box, unless it is cropped already."""
    if isinstance(mask, MaskCrop):
        return mask
    return MaskCrop.tight(mask, 0, 0, (mask.shape[0], mask.shape[1]))


def common_pixels(first: MaskCrop, second: MaskCrop) -> int:
    """Return the number of pixels that are in both masks."""
    box = common_box(first.box, second.box)
    return int(np.count_nonzero(first.within(box) & second.within(box)))


def without(first: MaskCrop, second: MaskCrop) -> MaskCrop:
    """Return the pixels of the first mask that are not in the second."""
    return MaskCrop.tight(first.pixels & ~second.within(first.box), first.x0, first.y0, first.size)


def common_box(first: Box, second: Box) -> Box:
    """Return the intersection of two boxes; a box without pixels if there is none."""
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    return x0, y0, max(x0, min(first[2], second[2])), max(y0, min(first[3], second[3]))


def enlarge(box: Box, margin: int, size: tuple[int, int]) -> Box:
    """Enlarge a box by a margin on each side, within an image of (H, W)."""
    x0, y0, x1, y1 = box
    x0, y0 = max(x0 - margin, 0), max(y0 - margin, 0)
    return x0, y0, min(x1 + margin, size[1]), min(y1 + margin, size[0])
