"""Metrics that compare the outlines of masks.

Distances are fractions of the diagonal of the whole image. Only the bounding box of both masks is
computed, with the same result.
"""

import math

import cv2
import numpy as np

from mobile_sam.metrics.overlap import Mask, crop

_BAND = 0.02  # of the diagonal: width of the band along the outline in boundary IoU
_TOLERANCE = 0.008  # of the diagonal: largest distance of matching contours


def boundary_iou(prediction: Mask, truth: Mask) -> float:
    """Compute boundary IoU of two masks (H, W); 1 if both are empty, 0 if one is.

    The IoU of the pixels of each mask within a distance d of its outline, where d is 2 % of the
    image's diagonal, rounded, at least 1 pixel (Cheng et al. 2021, arXiv:2103.16562). As in the
    authors' code, the distance is the larger of those in x and y, and the image border counts as
    outline.
    """
    width = max(1, round(_BAND * math.hypot(*truth.shape)))
    prediction, truth = crop(prediction, truth)
    if truth.size == 0:
        return 1.0
    predicted, true = _band(prediction, width), _band(truth, width)
    return np.count_nonzero(predicted & true) / np.count_nonzero(predicted | true)


def boundary_f(prediction: Mask, truth: Mask) -> float:
    """Compute the F measure of the contours of two masks (H, W), the F of DAVIS' J&F.

    Precision is the share of pixels of the predicted contour that have a pixel of the true contour
    within 0.8 % of the image's diagonal, rounded up; recall is the reverse; F is their harmonic
    mean (Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object
    Segmentation", with the contours and the tolerance of their code). The image border is not a
    contour, so a mask without a contour is empty or fills the image. If one of the two has none, F
    is 0. If neither has, F is 1 for equal masks and otherwise 0; the original code returns 1.
    """
    radius = math.ceil(_TOLERANCE * math.hypot(*truth.shape))
    # One more pixel on each side: contours also lie next to the mask.
    prediction, truth = crop(prediction, truth, margin=1)
    if truth.size == 0:
        return 1.0
    predicted, true = _contour(prediction), _contour(truth)
    if not predicted.any() or not true.any():
        return float(np.array_equal(prediction, truth))
    precision, recall = _near(predicted, true, radius), _near(true, predicted, radius)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _band(mask: Mask, width: int) -> Mask:
    """Return the pixels of a mask within `width` in x and y of a pixel outside it."""
    # Equal to eroding `width` times with a 3 x 3 square, as the authors do.
    square = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    inside = cv2.erode(
        mask.view(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,)
    )
    return mask & (inside == 0)


def _contour(mask: Mask) -> Mask:
    """Return the pixels that differ from their neighbour on the right, below, or below right.

    Positions outside the image never differ.
    """
    wider = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, right_below = wider[:-1, 1:], wider[1:, :-1], wider[1:, 1:]
    return (mask != right) | (mask != below) | (mask != right_below)


def _near(contour: Mask, other: Mask, radius: int) -> float:
    """Return the share of pixels of a contour with a pixel of the other within `radius` pixels."""
    distance = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[
        contour
    ]
    # Squared distances between pixels are integers.
    return float(np.mean(np.rint(distance**2) <= radius**2))
