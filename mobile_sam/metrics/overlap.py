"""Overlap of masks."""

import numpy as np

from mobile_sam.metrics.crop import Mask, crop


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H, W); 1 when both are empty."""
    prediction, truth = crop(prediction, truth)
    union = np.count_nonzero(prediction | truth)
    return 1.0 if union == 0 else np.count_nonzero(prediction & truth) / union


def dice(prediction: Mask, truth: Mask) -> float:
    """Twice the intersection over the sum of areas of two masks (H, W); 1 when both are empty."""
    prediction, truth = crop(prediction, truth)
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 1.0 if total == 0 else 2 * np.count_nonzero(prediction & truth) / total
