"""Metrics that compare the outlines of masks.

Distances are fractions of the diagonal of the whole image. Only the parts of the image where the
masks have pixels are computed, with the same result.
"""

import math

import cv2
import numpy as np

from mobile_sam.metrics.mask_crop import Mask, MaskCrop, common_box, crop_pair, enlarge
from mobile_sam.metrics.overlap import iou

_TOLERANCE = 0.008  # of the diagonal: largest distance of matching contours


def boundary_iou(prediction: Mask | MaskCrop, truth: Mask | MaskCrop) -> float:
    """Compute boundary IoU of two masks (H, W); 1 if both are empty, 0 if one is.

    The IoU of the pixels of each mask within a distance d of its outline, where d is 2 % of the
    image's diagonal, rounded, at least 1 pixel (Cheng et al. 2021, arXiv:2103.16562). As in the
    authors' code, the distance is the larger of those in x and y, and the image border counts as
    outline.
    """
    prediction, truth = crop_pair(prediction, truth)
    return iou(prediction.band, truth.band)


def boundary_f(prediction: Mask | MaskCrop, truth: Mask | MaskCrop) -> float:
    """Compute the F measure of the contours of two masks (H, W), the F of DAVIS' J&F.

    Precision is the share of pixels of the predicted contour that have a pixel of the true contour
    within 0.8 % of the image's diagonal, rounded up; recall is the reverse; F is their harmonic
    mean (Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object
    Segmentation", with the contours and the tolerance of their code). The image border is not a
    contour, so a mask without a contour is empty or fills the image. If one of the two has none, F
    is 0. If neither has, F is 1 for equal masks and otherwise 0; the original code returns 1.
    """
    prediction, truth = crop_pair(prediction, truth)
    predicted, true = prediction.contour, truth.contour
    if not predicted.area or not true.area:
        return float(prediction.area == truth.area)
    radius = math.ceil(_TOLERANCE * math.hypot(*truth.size))
    # Pixels elsewhere are not near the other contour.
    box = common_box(*(enlarge(contour.box, radius, truth.size) for contour in (predicted, true)))
    first, second = predicted.within(box), true.within(box)
    precision = _near(first, second, radius) / predicted.area
    recall = _near(second, first, radius) / true.area
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _near(contour: Mask, other: Mask, radius: int) -> int:
    """Return how many pixels of a contour have a pixel of the other within `radius` pixels."""
    if not other.any():
        return 0
    distance = cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[
        contour
    ]
    # Squared distances between pixels are integers.
    return int(np.count_nonzero(np.rint(distance**2) <= radius**2))
