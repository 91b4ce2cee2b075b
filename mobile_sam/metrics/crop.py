"""The part of two masks of one image in which either has a pixel.

Objects are small in large images, and are measured there alone.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def crop(first: Mask, second: Mask, margin: int = 0) -> tuple[Mask, Mask]:
    """Two masks (H, W) cut to the bounding box of their union, enlarged to each side.

    margin: pixels; never beyond the image. Both are C-contiguous. Two empty masks give two of
    (0, 0). Raises ValueError when the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"the masks are {first.shape} and {second.shape}; measure two of one image, (H, W)"
        )
    boxes = [box for box in map(_bounding_box, (first, second)) if box is not None]
    if not boxes:
        return np.zeros((0, 0), dtype=bool), np.zeros((0, 0), dtype=bool)
    y0, x0 = np.maximum(np.min([box[:2] for box in boxes], axis=0) - margin, 0)
    y1, x1 = np.max([box[2:] for box in boxes], axis=0) + margin  # slices end at the image
    return (
        np.ascontiguousarray(first[y0:y1, x0:x1], dtype=bool),
        np.ascontiguousarray(second[y0:y1, x0:x1], dtype=bool),
    )


def _bounding_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """(y0, x0, y1, x1) in pixels, y1 and x1 exclusive; None for an empty mask."""
    # Run-length decoders lay masks out by columns: OpenCV would copy them, but not the transposed.
    columns_first = not mask.flags.c_contiguous and mask.flags.f_contiguous
    pixels = (mask.T if columns_first else mask).astype(bool, copy=False).view(np.uint8)
    x, y, width, height = cv2.boundingRect(pixels)
    if width == 0:
        return None
    if columns_first:
        x, y, width, height = y, x, height, width
    return y, x, y + height, x + width
