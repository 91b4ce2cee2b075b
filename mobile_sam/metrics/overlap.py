"""Overlap of masks.

Objects are small in large images, so metrics are computed in the bounding box of both masks.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def crop(first: Mask, second: Mask, margin: int = 0) -> tuple[Mask, Mask]:
    """Crop two masks (H, W) to the bounding box of their union, enlarged by a margin.

    margin: pixels on each side, within the image. Both results are C-contiguous. Two empty masks
    give (0, 0). Raises ValueError if the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"the masks have shapes {first.shape} and {second.shape}; give two of one image, (H, W)"
        )
    boxes = [box for box in map(_bounding_box, (first, second)) if box is not None]
    if not boxes:
        return np.zeros((0, 0), dtype=bool), np.zeros((0, 0), dtype=bool)
    y0, x0 = np.maximum(np.min([box[:2] for box in boxes], axis=0) - margin, 0)
    y1, x1 = np.max([box[2:] for box in boxes], axis=0) + margin  # slices are clipped to the image
    return (
        np.ascontiguousarray(first[y0:y1, x0:x1], dtype=bool),
        np.ascontiguousarray(second[y0:y1, x0:x1], dtype=bool),
    )


def _bounding_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """(y0, x0, y1, x1) in pixels, y1 and x1 exclusive; None for an empty mask."""
    # Run-length decoders return column-major masks, which OpenCV copies unless transposed.
    columns_first = not mask.flags.c_contiguous and mask.flags.f_contiguous
    pixels = (mask.T if columns_first else mask).astype(bool, copy=False).view(np.uint8)
    x, y, width, height = cv2.boundingRect(pixels)
    if width == 0:
        return None
    if columns_first:
        x, y, width, height = y, x, height, width
    return y, x, y + height, x + width


def iou(prediction: Mask, truth: Mask) -> float:
    """Compute the intersection over union of two masks (H, W); 1 if both are empty."""
    prediction, truth = crop(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return 1.0 if union == 0 else np.count_nonzero(prediction & truth) / union


def dice(prediction: Mask, truth: Mask) -> float:
    """Compute Dice, 2 |A ∩ B| / (|A| + |B|), of two masks (H, W); 1 if both are empty."""
    prediction, truth = crop(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 1.0 if total == 0 else 2 * np.count_nonzero(prediction & truth) / total
