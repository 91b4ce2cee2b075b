"""Overlap of masks."""

from mobile_sam.metrics.mask_crop import Mask, MaskCrop, common_pixels, crop_pair


def iou(prediction: Mask | MaskCrop, truth: Mask | MaskCrop) -> float:
    """Compute the intersection over union of two masks (H, W); 1 if both are empty."""
    prediction, truth = crop_pair(prediction, truth)
    both = common_pixels(prediction, truth)
    union = prediction.area + truth.area - both
    return 1.0 if union == 0 else both / union


def dice(prediction: Mask | MaskCrop, truth: Mask | MaskCrop) -> float:
    """Compute Dice, 2 |A ∩ B| / (|A| + |B|), of two masks (H, W); 1 if both are empty."""
    prediction, truth = crop_pair(prediction, truth)
    total = prediction.area + truth.area
    return 1.0 if total == 0 else 2 * common_pixels(prediction, truth) / total
