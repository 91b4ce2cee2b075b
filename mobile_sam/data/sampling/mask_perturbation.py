"""A ground-truth mask made as poor as an earlier prediction, for mask prompts."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.masks import Mask, bounding_box

# Low-res logits of a sure pixel; MobileSAM's own mostly lie within -20 and 20.
LOGIT = 10.0
# Of the side of a square as large as the segment.
_LARGEST_SHIFT, _LARGEST_GROWTH = 0.1, 0.15
_LARGEST_BLUR = 2.0  # standard deviation in low-res pixels


def perturbed_mask_logits(
    mask: Mask, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """low_res_logits (S/4, S/4) within -LOGIT and LOGIT of a mask that is not quite right.

    The mask is shifted, then eroded or dilated, each by a random share of its own extent, and
    blurred. One that would vanish keeps its place and size.
    mask: (S, S), not empty, S a multiple of 4; size: (H, W) of the image within it.
    """
    side = np.sqrt(mask.sum())
    moved = _shift(mask, np.rint(rng.uniform(-1, 1, 2) * _LARGEST_SHIFT * side).astype(int))
    moved = _dilate(moved, rng.uniform(-1, 1) * _LARGEST_GROWTH * side)
    moved[size[0] :], moved[:, size[1] :] = False, False
    blur = rng.uniform(0, _LARGEST_BLUR)
    kept = moved if moved.any() else mask
    low_res = (mask.shape[1] // 4, mask.shape[0] // 4)
    coverage = cv2.resize(kept.astype(np.float32), low_res, interpolation=cv2.INTER_AREA)
    if blur > 0.1:  # a narrower one changes nothing
        coverage = cv2.GaussianBlur(coverage, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    return (LOGIT * (2 * coverage - 1)).astype(np.float32)


def _shift(mask: Mask, by: NDArray[np.int_]) -> Mask:
    """The mask moved `by` (x, y) pixels; what leaves the frame is lost."""
    x0, y0, x1, y1 = bounding_box(mask)
    height, width = mask.shape
    left, top = max(x0, -by[0]), max(y0, -by[1])
    right, bottom = min(x1, width - by[0]), min(y1, height - by[1])
    moved = np.zeros_like(mask)
    if left < right and top < bottom:
        target = np.s_[top + by[1] : bottom + by[1], left + by[0] : right + by[0]]
        moved[target] = mask[top:bottom, left:right]
    return moved


def _dilate(mask: Mask, radius: float) -> Mask:
    """The mask dilated by `radius` pixels, or eroded where it is negative."""
    outside = radius > 0
    source = (mask != outside).astype(np.uint8)
    distance = cv2.distanceTransform(source, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= radius if outside else distance > -radius
