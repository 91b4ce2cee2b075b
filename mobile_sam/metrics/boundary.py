"""Agreement of the outlines of masks.

Widths are shares of the diagonal of the whole image. Only the part of it in which there is a mask
is computed, with the same result.
"""

import math

import cv2
import numpy as np

from mobile_sam.metrics.crop import Mask, crop

_BAND = 0.02  # of the diagonal: the band along the outline in boundary IoU
_TOLERANCE = 0.008  # of the diagonal: how far matching contours may lie apart


def boundary_iou(prediction: Mask, truth: Mask) -> float:
    """Boundary IoU of two masks (H, W); 1 when both are empty, 0 when one is.

    The IoU of the pixels of each mask within a distance d of its outline, where d is 2 % of the
    image's diagonal, rounded, at least 1 pixel (Cheng et al. 2021, arXiv:2103.16562). As in the
    authors' code, the distance is the larger of those in x and y, and the border of the image is
    outline.
    """
    width = max(1, round(_BAND * math.hypot(*truth.shape)))
    prediction, truth = crop(prediction, truth)
    if truth.size == 0:
        return 1.0
    predicted, true = _band(prediction, width), _band(truth, width)
    return np.count_nonzero(predicted & true) / np.count_nonzero(predicted | true)


def boundary_f(prediction: Mask, truth: Mask) -> float:
    """F measure of the contours of two masks (H, W): the F of DAVIS' J&F.

    Precision is the share of pixels of the predicted contour with one of the true contour no
    farther away than 0.8 % of the image's diagonal, rounded up; recall is the reverse; F is their
    harmonic mean (Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video
    Object Segmentation", with the contours and the tolerance of their code). The border of the
    image is no contour.
    A mask without a contour is empty, or fills the image. If one of the two has none F is 0. If
    both have none F is 1 when they are equal, else 0, where the original code says 1 as well.
    """
    radius = math.ceil(_TOLERANCE * math.hypot(*truth.shape))
    # A pixel more to each side: contours lie beside the mask too.
    prediction, truth = crop(prediction, truth, margin=1)
    if truth.size == 0:
        return 1.0
    predicted, true = _contour(prediction), _contour(truth)
    if not predicted.any() or not true.any():
        return float(np.array_equal(prediction, truth))
    precision, recall = _near(predicted, true, radius), _near(true, predicted, radius)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _band(mask: Mask, width: int) -> Mask:
    """The pixels of a mask with one that is not of it, or none, within `width` in x and y."""
    # The authors erode `width` times by a square of 3 x 3, which is the same.
    square = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    inside = cv2.erode(
        mask.view(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,)
    )
    return mask & (inside == 0)


def _contour(mask: Mask) -> Mask:
    """The pixels that differ from their neighbour to the right, below, or right below.

    What lies beyond the image never differs.
    """
    wider = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, right_below = wider[:-1, 1:], wider[1:, :-1], wider[1:, 1:]
    return (mask != right) | (mask != below) | (mask != right_below)


def _near(contour: Mask, other: Mask, radius: int) -> float:
    """The share of pixels of a contour with one of the other within `radius` pixels."""
    distance = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[
        contour
    ]
    # Squares of distances between pixels are whole numbers.
    return float(np.mean(np.rint(distance**2) <= radius**2))
