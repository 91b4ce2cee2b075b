"""Supervised losses of masks and of the predicted IoU, one value for each prompt.

Pixels that are not valid (padding) count in none of them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def focal(
    logits: Tensor, truth: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss, the mean over valid pixels (Lin et al., arXiv:1708.02002, equation 5).

    logits: (N, H, W) before the sigmoid; truth: (N, H, W) 0 or 1; valid: (N, H, W) 0 or 1.
    Returns (N,).
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = torch.sigmoid(logits)
    wrong = probability * (1 - truth) + (1 - probability) * truth  # 1 - p_t
    balance = alpha * truth + (1 - alpha) * (1 - truth)
    loss = balance * wrong**gamma * cross_entropy
    return (loss * valid).sum((1, 2)) / valid.sum((1, 2))


def dice(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by one pixel (arXiv:1606.04797).

    Shapes as in `focal`. Returns (N,).
    """
    probability = torch.sigmoid(logits) * valid
    truth = truth * valid
    overlap = (probability * truth).sum((1, 2))
    total = probability.sum((1, 2)) + truth.sum((1, 2))
    return 1 - (2 * overlap + 1) / (total + 1)


def iou_error(predicted_iou: Tensor, measured_iou: Tensor) -> Tensor:
    """Squared error of the predicted IoU, both (N,). The measured one gets no gradient."""
    return (predicted_iou - measured_iou.detach()) ** 2


@torch.no_grad()
def measured_iou(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """IoU of `logits > 0` with the truth; shapes as in `focal`. Returns (N,)."""
    prediction, target, inside = logits > 0, truth > 0.5, valid > 0.5
    overlap = (prediction & target & inside).sum((1, 2))
    union = ((prediction | target) & inside).sum((1, 2))
    return overlap / union.clamp(min=1)
