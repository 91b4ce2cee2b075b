"""Masks as run-length codes, and the shapes derived from them."""

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Mask = NDArray[np.bool_]


def encode(mask: Mask) -> bytes:
    """COCO's compressed run-length code of a mask (H, W)."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def decode(counts: bytes, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of a compressed run-length code."""
    return coco.decode({"size": list(size), "counts": counts}).astype(bool)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels; x1 and y1 are exclusive. Raises ValueError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        raise ValueError("an empty mask has no bounding box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def interior_point(mask: Mask) -> tuple[int, int]:
    """(x, y) of the pixel that lies deepest inside the mask; the first one when there are several.

    mask: (H, W), not empty. What lies outside the image counts as background.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)
