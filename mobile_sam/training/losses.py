"""Supervised losses of masks and of the predicted IoU, one value for each prompt.

Pixels that are not valid (padding, regions to ignore) count in none of them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ALPHA = 0.25
_BAND = 1 / 128  # of the side of the model frame: 8 pixels to either side of an edge at 1024


def full_precision(x: Tensor) -> Tensor:
    """The same numbers in float32 where mixed precision gave less; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


class _Focal(torch.autograd.Function):
    """`focal` of each pixel, which keeps nothing but its inputs for the gradient.

    With z, the logit against the truth, s = sigmoid(z) and c = softplus(z), the cross-entropy: the
    loss is b s**2 c, and its derivative by z is b s**2 (2 (1 - s) c + s).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> Tensor:
        ctx.save_for_backward(logits, truth)
        against = logits * (1 - 2 * truth)
        return _balance(truth) * torch.sigmoid(against).square() * F.softplus(against)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, truth = ctx.saved_tensors
        sign = 1 - 2 * truth
        against = logits * sign
        wrong = torch.sigmoid(against)
        slope = wrong.square() * (2 * (1 - wrong) * F.softplus(against) + wrong)
        return gradient * _balance(truth) * slope * sign, None


def _balance(truth: Tensor) -> Tensor:
    return _ALPHA * truth + (1 - _ALPHA) * (1 - truth)


def focal(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Focal loss, the mean over valid pixels (Lin et al., arXiv:1708.02002, equation 5).

    With alpha 0.25 and gamma 2, as there.
    logits: (N, H, W) before the sigmoid; truth: (N, H, W) 0 or 1; valid: (N, H, W) 0 or 1.
    Returns (N,).
    """
    return _mean(_Focal.apply(logits, truth), valid)


def dice(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by one pixel (arXiv:1606.04797).

    Shapes as in `focal`. Returns (N,).
    """
    probability = torch.sigmoid(logits) * valid
    truth = truth * valid
    overlap = (probability * truth).sum((1, 2))
    total = probability.sum((1, 2)) + truth.sum((1, 2))
    return 1 - (2 * overlap + 1) / (total + 1)


def boundary(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy, the mean over valid pixels near the edge of the segment.

    Near is what a square of 1/64 of the side H, moved along the edge, covers; the band is that of
    Boundary IoU (Cheng et al., arXiv:2103.16562), narrower. 0 where there is no edge.
    Shapes as in `focal`. Returns (N,).
    """
    reach = max(1, round(truth.shape[1] * _BAND))
    band = _dilated(truth, reach) - (1 - _dilated(1 - truth, reach))
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return _mean(cross_entropy, band * valid)


def _dilated(mask: Tensor, reach: int) -> Tensor:
    """The largest value (N, H, W) within `reach` pixels in each direction."""
    side = 2 * reach + 1  # a square is a row of columns, and two lines cost less than a square
    rows = F.max_pool2d(mask[:, None], (side, 1), stride=1, padding=(reach, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, reach))[:, 0]


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def iou_error(predicted_iou: Tensor, measured_iou: Tensor) -> Tensor:
    """Squared error of the predicted IoU, both (N,). The measured one gets no gradient."""
    return (predicted_iou - measured_iou.detach()) ** 2


@torch.no_grad()
def measured_iou(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """IoU of `logits > 0` with the truth; shapes as in `focal`. Returns (N,)."""
    prediction, target, inside = logits > 0, truth > 0.5, valid > 0.5
    overlap = (prediction & target & inside).sum((1, 2))
    union = ((prediction | target) & inside).sum((1, 2))
    return overlap.to(logits.dtype) / union.clamp(min=1)
